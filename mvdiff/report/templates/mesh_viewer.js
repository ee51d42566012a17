// A 3D viewer for meshes with vertex colours. glTF's axes: x right, y up, z towards the viewer; yaw grows as the camera
// goes round to the right of the mesh, pitch as it rises. Colours are shown as they are, and back faces not at all.
// Exposes window.mvdiffMesh = {state, lookFrom(yaw, pitch, distance), select(scene, method), ready, canvas}.
"use strict";
(() => {
  const FOV = (45 * Math.PI) / 180, START = { yaw: 30, pitch: 40 };

  const VERTEX = `#version 300 es
    uniform mat4 clipFromGrid;
    layout(location = 0) in vec3 place;   // [0, 1] between the bounds
    layout(location = 1) in vec3 colour;
    out vec3 shown;
    void main() {
      shown = colour;
      gl_Position = clipFromGrid * vec4(place, 1.0);
    }`;
  const FRAGMENT = `#version 300 es
    precision mediump float;
    in vec3 shown;
    out vec4 colour;
    void main() { colour = vec4(shown, 1.0); }`;

  const { find, canvas, gl, fitCanvas, makeButton, fail, wrapped, clamped, ...stage } = mvdiffStage("mesh-viewer", true);
  const methodBox = find(".methods"), sceneBox = find(".scenes"), readout = find(".readout");
  const scenes = JSON.parse(find('script[type="application/json"]').textContent);
  const state = { ...START, distance: 1, target: [0, 0, 0], scene: 0, method: scenes[0].methods[0].name };

  // ---- drawing ----
  let matrixPlace = null, loaded = new Map(), drawn = null, radius = 1;

  function buildProgram() {
    matrixPlace = gl.getUniformLocation(stage.buildProgram(VERTEX, FRAGMENT), "clipFromGrid");
    gl.enable(gl.DEPTH_TEST);
    gl.enable(gl.CULL_FACE);
    gl.clearColor(0.12, 0.14, 0.17, 1);
    loaded = new Map();
    drawn = null;
  }

  async function unpack(mesh) {
    const packed = Uint8Array.from(atob(mesh.data), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    const bytes = await new Response(stream).arrayBuffer();
    const faces = new Uint32Array(bytes.slice(mesh.vertices * 6, mesh.vertices * 6 + mesh.faces * 12));
    for (let i = 1; i < faces.length; i++) faces[i] += faces[i - 1];  // wraps around as the differences do
    const colours = new Uint8Array(bytes, mesh.vertices * 6 + mesh.faces * 12);
    return { places: new Uint16Array(bytes, 0, mesh.vertices * 3), faces, colours };
  }

  async function load(mesh) {
    const { places, faces, colours } = await unpack(mesh);
    const array = gl.createVertexArray();
    gl.bindVertexArray(array);
    [[places, gl.UNSIGNED_SHORT], [colours, gl.UNSIGNED_BYTE]].forEach(([values, kind], index) => {
      gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
      gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
      gl.enableVertexAttribArray(index);
      gl.vertexAttribPointer(index, 3, kind, true, 0, 0);
    });
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, faces, gl.STATIC_DRAW);
    return { array, mesh };
  }

  // The camera's axes in the mesh's: right, up, and back (towards the viewer).
  function axes() {
    const yaw = (state.yaw * Math.PI) / 180, pitch = (state.pitch * Math.PI) / 180;
    const [cy, sy, cp, sp] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
    return { right: [cy, 0, -sy], up: [-sy * sp, cp, -cy * sp], back: [sy * cp, sp, cy * cp] };
  }

  const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];

  // The field of view is that of the shorter side. Grid: [0, 1] between a mesh's bounds.
  function clipFromGrid({ low, high }) {
    const { right, up, back } = axes(), eye = state.target.map((value, i) => value + state.distance * back[i]);
    const near = Math.max(state.distance - 3 * radius, 0.005 * radius), far = state.distance + 6 * radius;
    const aspect = canvas.width / canvas.height, focal = 1 / Math.tan(FOV / 2);
    const size = high.map((value, i) => value - low[i]), from = low.map((value, i) => value - eye[i]);
    const row = (axis, scale, shift = 0) => [...axis.map((value, i) => value * scale * size[i]), dot(axis, from) * scale + shift];
    const rows = [
      row(right, focal / Math.max(aspect, 1)),
      row(up, focal * Math.min(aspect, 1)),
      row(back, (far + near) / (near - far), (2 * far * near) / (near - far)),
      row(back, -1),
    ];
    return new Float32Array([0, 1, 2, 3].flatMap((column) => rows.map((values) => values[column])));
  }

  function draw() {
    readout.textContent = `yaw ${Math.round(state.yaw)}° · pitch ${Math.round(state.pitch)}° · ${state.distance.toFixed(1)} m`;
    if (!gl || !drawn || gl.isContextLost()) return;
    fitCanvas();
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.uniformMatrix4fv(matrixPlace, false, clipFromGrid(drawn.mesh));
    gl.bindVertexArray(drawn.array);
    gl.drawElements(gl.TRIANGLES, 3 * drawn.mesh.faces, gl.UNSIGNED_INT, 0);
  }

  // ---- what is shown ----
  function lookFrom(yaw, pitch, distance = state.distance) {
    Object.assign(state, { yaw: wrapped(yaw), pitch: clamped(pitch, -90, 90) });
    state.distance = clamped(distance, 0.05 * radius, 8 * radius);
    draw();
  }

  function reset() {
    const { low, high } = scenes[state.scene].methods[0];
    radius = Math.hypot(...high.map((value, i) => value - low[i])) / 2 || 1;
    state.target = high.map((value, i) => (value + low[i]) / 2);
    lookFrom(START.yaw, START.pitch, (0.7 * radius) / Math.sin(FOV / 2));
  }

  // Show a scene as a method made it; within a scene the view stays. Meshes stay loaded: there are few.
  async function select(scene, method = state.method) {
    const methods = scenes[scene].methods, chosen = methods.find((one) => one.name === method) || methods[0];
    const moved = scene !== state.scene;
    Object.assign(state, { scene, method: chosen.name });
    if (moved) reset();
    methodBox.replaceChildren();
    if (methods.length > 1) {
      for (const one of methods) makeButton(methodBox, one === chosen, () => show(scene, one.name), one.name);
    }
    [...sceneBox.children].forEach((child, index) => child.setAttribute("aria-pressed", String(index === scene)));
    if (gl && !gl.isContextLost()) {
      if (!loaded.has(chosen)) loaded.set(chosen, load(chosen));
      const ready = await loaded.get(chosen);
      if (state.scene !== scene || state.method !== chosen.name) return;
      drawn = ready;
    }
    draw();
  }

  function show(scene, method) {
    viewer.ready = select(scene, method).catch((error) => fail(`The mesh cannot be shown: ${error.message}`));
    return viewer.ready;
  }

  // ---- input ----
  // Move the mesh along with the pointer, at the distance of the point that is looked at.
  function pan(dx, dy) {
    const { right, up } = axes();
    const metres = (2 * state.distance * Math.tan(FOV / 2)) / Math.min(canvas.clientWidth, canvas.clientHeight);
    state.target = state.target.map((value, i) => value - metres * (dx * right[i] - dy * up[i]));
    draw();
  }

  // A drag pulls the mesh along: across the whole canvas, half a turn.
  function drag(dx, dy, event) {
    if (event.shiftKey || event.buttons & 2) pan(dx, dy);
    else lookFrom(state.yaw - (dx * 180) / canvas.clientWidth, state.pitch + (dy * 180) / canvas.clientHeight);
  }

  const turn = (yaw, pitch) => () => lookFrom(state.yaw + yaw, state.pitch + pitch);
  const zoom = (ratio) => lookFrom(state.yaw, state.pitch, state.distance * ratio);

  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  stage.listen({
    drag,
    pinch: (ratio, dx, dy) => { zoom(ratio); pan(dx / 2, dy / 2); },
    zoom,
    keys: { ArrowLeft: turn(5, 0), ArrowRight: turn(-5, 0), ArrowUp: turn(0, -5), ArrowDown: turn(0, 5) },
    choose: (number) => {
      const method = scenes[state.scene].methods[number - 1];
      return Boolean(method && show(state.scene, method.name));
    },
    reset,
    restore: () => { buildProgram(); show(state.scene, state.method); },
    draw,
  });

  // ---- start ----
  const viewer = { state, lookFrom, select: show, ready: null, canvas };
  window.mvdiffMesh = viewer;
  if (scenes.length > 1) {
    scenes.forEach((entry, index) => makeButton(sceneBox, index === 0, () => show(index), entry.title));
  }
  if (gl) buildProgram();
  else fail("This browser has no WebGL 2.");
  reset();
  show(0, state.method);
})();
