"use strict";
// Volumes lie in this page as gzipped NIfTI files in base64. They are unpacked only when their case is picked, and then their
// elements say how often that was.
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("viewer-data").textContent);
  const canvas = byId("viewer-canvas"), message = byId("viewer-message");
  const casePicker = byId("viewer-case"), cellPicker = byId("viewer-cell"), viewPicker = byId("viewer-view");
  const boxes = Object.fromEntries(["segmentation", "reference", "differences", "uncertainty"].map((kind) => [kind, byId(`show-${kind}`)]));
  const HEADER = 352; // bytes before the voxels of a NIfTI file
  const DIFFERENCES = data.errors;
  const NOT_KNOWN = 255; // in the reference: nobody has looked there
  const MOST_PROBABLE = 0.5; // of an error: the end of the scale
  const PROBABLE = { // its colours; #viewer-scale of page.css shows the same
    R: [47, 120, 237, 240], G: [10, 28, 105, 249], B: [91, 109, 37, 33], A: [0, 255, 255, 255], I: [0, 64, 191, 255],
  };
  let niivue = null; // a promise of the viewer, once it is wanted
  let shown = []; // what each of the viewer's volumes is: "image", "segmentation", ...
  let wanted = 0, queue = Promise.resolve();

  async function unpack(id) {
    const block = byId(id), packed = Uint8Array.from(atob(block.textContent), (letter) => letter.charCodeAt(0));
    block.dataset.unpacked = Number(block.dataset.unpacked ?? 0) + 1;
    return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).blob();
  }

  async function start() {
    if (!document.createElement("canvas").getContext("webgl2")) throw new Error("this browser offers no WebGL 2");
    const url = URL.createObjectURL(new Blob([await unpack("viewer-bundle")], { type: "text/javascript" }));
    await import(url);
    URL.revokeObjectURL(url);
    const nv = new globalThis.Niivue({
      backColor: [0, 0, 0, 1], crosshairColor: [0.95, 0.8, 0.2, 1], crosshairWidth: 0.3, crosshairWidthUnit: "percent", crosshairGap: 6,
      isRadiologicalConvention: true, sagittalNoseLeft: true, fontColor: [1, 0.85, 0.4, 1],
      dragAndDropEnabled: false, isForceMouseClickToVoxelCenters: true, loadingText: "", show3Dcrosshair: true, isColorbar: false, logLevel: "silent",
    });
    nv.opts.multiplanarShowRender = 0; // never beside the planes, where it would be too small
    nv.addColormap("probable", PROBABLE);
    nv.onLocationChange = locate;
    await nv.attachToCanvas(canvas);
    return nv;
  }

  const currentCase = () => data.cases[casePicker.selectedIndex];
  const currentLayer = () => currentCase().layers[cellPicker.value] || { segmentation: "", uncertainty: "" };

  const isSolid = () => viewPicker.value === "render" && canvas.dataset.flat !== "true";
  const isOn = (kind) => boxes[kind].checked && !boxes[kind].parentElement.hidden;

  function opacityOf(kind) { // in 3D the scan, a grey box, would hide the structures
    if (kind === "image") return isSolid() && Object.keys(boxes).some(isOn) ? 0 : 1;
    if (!isOn(kind)) return 0;
    if (isSolid()) return 1;
    const strength = byId("viewer-opacity").value / 100;
    return kind === "differences" ? Math.min(1, strength + 0.4) : kind === "uncertainty" ? Math.min(1, strength + 0.25) : strength;
  }

  // What a kind of volume shows for the values 1, 2, ...
  const entriesOf = (kind) => (kind === "differences" ? DIFFERENCES : data.labels);
  const nameOf = (value) => (value === NOT_KNOWN ? "not annotated" : value ? data.labels[value - 1]?.name : "background");

  function colours(kind) { // as NiiVue takes them
    const table = { R: [0], G: [0], B: [0], A: [0], I: [0], labels: [""] };
    entriesOf(kind).forEach(({ name, colour: [red, green, blue] }, index) => {
      table.R.push(red); table.G.push(green); table.B.push(blue); table.A.push(255);
      table.I.push(index + 1); table.labels.push(name);
    });
    if (kind === "reference") for (let value = table.I.length; value <= NOT_KNOWN; value++) { // transparent
      for (const part of ["R", "G", "B", "A"]) table[part].push(0);
      table.I.push(value); table.labels.push("");
    }
    return table;
  }

  async function compare(segmentation, reference) { // NIfTI files on one grid, 8 bits, without compression
    const found = new Uint8Array(await segmentation.arrayBuffer()), wanted = new Uint8Array(await reference.arrayBuffer());
    for (let i = HEADER; i < found.length; i++) {
      found[i] = found[i] === wanted[i] || wanted[i] === NOT_KNOWN ? 0 : !found[i] ? 1 : !wanted[i] ? 2 : 3;
    }
    return new Blob([found]);
  }

  async function load(nv, ticket) {
    const picked = currentCase(), layer = currentLayer();
    const ids = { image: picked.image, segmentation: layer.segmentation, reference: picked.reference, uncertainty: layer.uncertainty };
    const kinds = Object.keys(ids).filter((kind) => ids[kind]);
    const files = await Promise.all(kinds.map((kind) => unpack(ids[kind])));
    if (layer.segmentation && picked.reference) {
      files.push(await compare(files[kinds.indexOf("segmentation")], files[kinds.indexOf("reference")]));
      kinds.push("differences");
    }
    if (ticket !== wanted) return;
    const urls = files.map((file) => URL.createObjectURL(file));
    shown = [];
    await nv.loadVolumes(kinds.map((kind, index) => ({
      url: urls[index], name: `${kind}.nii`, opacity: opacityOf(kind), colormap: kind === "uncertainty" ? "probable" : "gray",
    })));
    urls.forEach((url) => URL.revokeObjectURL(url));
    shown = kinds;
    nv.volumes.forEach((volume, index) => {
      if (shown[index] === "image") {
        volume.cal_min = volume.global_min;
        volume.cal_max = picked.hasImage ? volume.global_max : volume.global_min + 1;
      } else if (shown[index] === "uncertainty") {
        volume.colormapType = 1; // opaque as the square of its share of cal_min: no border where it begins
        volume.cal_min = volume.cal_max = MOST_PROBABLE;
      } else {
        volume.setColormapLabel(colours(shown[index]));
      }
    });
    canvas.dataset.flat = nv.volumes[0].dims[3] === 1;
    view(nv);
    const [, ...size] = nv.volumes[0].dims; // begin in the middle of a voxel: between two, overlays fade
    nv.scene.crosshairPos = picked.start.map((part, axis) => (Math.floor(part * size[axis]) + 0.5) / size[axis]);
    nv.drawScene();
    nv.createOnLocationChange();
    canvas.dataset.shown = `${picked.title}|${cellPicker.value}`;
  }

  function view(nv) {
    const types = { axial: nv.sliceTypeAxial, coronal: nv.sliceTypeCoronal, sagittal: nv.sliceTypeSagittal, multiplanar: nv.sliceTypeMultiplanar, render: nv.sliceTypeRender };
    nv.setSliceType(canvas.dataset.flat === "true" ? nv.sliceTypeAxial : types[viewPicker.value]);
    adjust(nv);
  }

  function adjust(nv) {
    shown.forEach((kind, index) => { nv.volumes[index].opacity = opacityOf(kind); });
    nv.updateGLVolume();
    byId("viewer-legend").classList.toggle("compares", isOn("differences"));
    byId("viewer-scale").hidden = !isOn("uncertainty");
  }

  function locate(place) {
    const parts = [`x, y, z = ${Array.from(place.mm).slice(0, 3).map((mm) => mm.toFixed(1)).join(", ")} mm`];
    place.values.forEach(({ value }, index) => {
      const kind = shown[index];
      if (kind === "image" && currentCase().hasImage) parts.push(`image ${value.toFixed(0)}`);
      if (kind === "reference" || kind === "segmentation") parts.push(`${kind}: ${nameOf(Math.round(value))}`);
      if (kind === "uncertainty") parts.push(`probability of an error ${(100 * value).toFixed(0)} %`);
    });
    byId("viewer-location").textContent = parts.join("  ·  ");
  }

  function offerCells() { // the models that segmented the picked case; the chosen one stays if it can
    const before = cellPicker.value, there = data.cells.filter((cell) => currentCase().layers[cell.key]);
    cellPicker.replaceChildren(...there.map((cell) => new Option(cell.title, cell.key, false, cell.key === before)));
    byId("viewer-cell-choice").hidden = data.cells.length < 2;
  }

  function describe() {
    const picked = currentCase(), layer = currentLayer(), dice = picked.dice[cellPicker.value] || [];
    boxes.reference.parentElement.hidden = !picked.reference;
    boxes.differences.parentElement.hidden = !(picked.reference && layer.segmentation);
    boxes.uncertainty.parentElement.hidden = !layer.uncertainty;
    const entry = ({ name, colour }, note) => {
      const item = document.createElement("li"), patch = document.createElement("i");
      patch.style.background = `rgb(${colour.join(",")})`;
      item.append(patch, name + note);
      return item;
    };
    const score = (value) => (value === undefined ? "" : value === null ? " (absent)" : ` (Dice ${value.toFixed(3)})`);
    const compared = DIFFERENCES.map((one) => entry(one, ""));
    compared.forEach((item) => item.classList.add("difference"));
    byId("viewer-legend").replaceChildren(...data.labels.map((label, index) => entry(label, score(dice[index]))), ...compared);
  }

  function show() {
    const ticket = ++wanted;
    offerCells();
    describe();
    message.textContent = "Loading …";
    niivue ??= start();
    queue = queue.then(async () => {
      if (ticket !== wanted) return; // another case was picked meanwhile
      await load(await niivue, ticket);
      if (ticket === wanted) message.textContent = "";
    }).catch((error) => { message.textContent = `The viewer cannot be shown: ${error.message || error}`; });
  }

  function change(action) { // once the viewer is there
    if (niivue) queue = queue.then(async () => action(await niivue));
  }

  function step(by) {
    casePicker.selectedIndex = (casePicker.selectedIndex + by + data.cases.length) % data.cases.length;
    show();
  }

  const mean = (dice) => {
    const defined = Object.values(dice || {}).flat().filter((value) => value !== null);
    return defined.length ? ` (mean Dice ${(defined.reduce((a, b) => a + b) / defined.length).toFixed(3)})` : "";
  };
  casePicker.append(...data.cases.map((one) => new Option(one.title + mean(one.dice))));
  casePicker.addEventListener("change", show);
  cellPicker.addEventListener("change", show);
  byId("viewer-previous").addEventListener("click", () => step(-1));
  byId("viewer-next").addEventListener("click", () => step(1));
  viewPicker.addEventListener("change", () => change(view));
  boxes.uncertainty.addEventListener("input", () => { // alone, unless others are asked for beside it
    const alone = boxes.uncertainty.checked;
    for (const kind of ["segmentation", "reference", "differences"]) if (alone || kind === "segmentation") boxes[kind].checked = !alone;
  });
  [...Object.values(boxes), byId("viewer-opacity")].forEach((input) => input.addEventListener("input", () => change(adjust)));
  byId("viewer-fallback").remove();
  byId("viewer-controls").hidden = false;
  offerCells();
  describe();
  const watcher = new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting)) { watcher.disconnect(); show(); }
  }, { rootMargin: "300px" });
  watcher.observe(byId("viewer-frame"));
})();
