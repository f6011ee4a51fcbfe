# The pipeline in a container; documentation/how-to/install.md says how to run it. Not built in CI.
#   docker build -t diffatlas .                               for CPUs
#   docker build -t diffatlas:cuda --build-arg DEVICE=cuda .  for NVIDIA GPUs
FROM python:3.11-slim

ARG DEVICE=cpu
ARG EXTRAS=

# The user that the container runs as, unless docker run --user names another, who may have no name and no home.
RUN useradd --create-home --uid 1000 diffatlas \
    && mkdir --mode 1777 /data /workspace
ENV DIFFATLAS_WORKSPACE=/workspace \
    MPLCONFIGDIR=/tmp/matplotlib \
    USER=diffatlas \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore

WORKDIR /opt/diffatlas
COPY constraints.txt ./
# torch first: it is large, and changes seldom. Its wheels for CUDA carry CUDA with them; the driver is the host's.
RUN case "$DEVICE" in \
      cpu) pip install --no-deps -c constraints.txt --index-url https://download.pytorch.org/whl/cpu torch ;; \
      cuda) pip install -c constraints.txt torch ;; \
      *) echo "DEVICE must be cpu or cuda, not '$DEVICE'" >&2; exit 2 ;; \
    esac
COPY setup.py pyproject.toml README.md LICENSE ./
COPY dataset_conversion dataset_conversion
COPY diffatlas_pipeline diffatlas_pipeline
RUN pip install -c constraints.txt ".${EXTRAS}" && rm -rf build ./*.egg-info

USER diffatlas
WORKDIR /data
VOLUME ["/data", "/workspace"]
CMD ["python", "-m", "diffatlas_pipeline"]
