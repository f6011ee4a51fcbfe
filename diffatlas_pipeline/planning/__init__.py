"""Raw-data checks, fingerprint, planner, network topology, choice of diffusion steps."""
