// A 360-degree viewer for equirectangular panoramas. Conventions of mvdiff.geometry: the image's centre is yaw 0, yaw
// grows to the right, pitch grows upwards; camera axes x right, y down, z forward; R = R_y(yaw) R_x(pitch).
// Exposes window.mvdiffViewer = {state, lookAt(yaw, pitch, fov), select(panorama, method), ready, canvas}.
"use strict";
(() => {
  const MIN_FOV = 30, MAX_FOV = 110, START = { yaw: 0, pitch: 0, fov: 90 };

  const VERTEX = `#version 300 es
    out vec2 screen;  // [-1, 1], y up
    void main() {
      vec2 corner = vec2((gl_VertexID << 1) & 2, gl_VertexID & 2);
      screen = corner * 2.0 - 1.0;
      gl_Position = vec4(screen, 0.0, 1.0);
    }`;

  // The mip level follows the angle that a pixel spans, not the derivatives of the texture coordinates: those jump at the
  // wrap behind the viewer and grow without bound at the poles, which would show as a seam and as two blurred dots.
  const FRAGMENT = `#version 300 es
    precision highp float;
    uniform sampler2D panorama;
    uniform vec2 halfExtent;  // tangents of half the horizontal and half the vertical field of view
    uniform vec2 direction;   // yaw, pitch in radians
    in vec2 screen;
    out vec4 colour;
    const float PI = 3.141592653589793;
    void main() {
      vec3 ray = vec3(screen.x * halfExtent.x, -screen.y * halfExtent.y, 1.0);
      float cy = cos(direction.x), sy = sin(direction.x), cp = cos(direction.y), sp = sin(direction.y);
      vec3 tilted = vec3(ray.x, cp * ray.y - sp * ray.z, sp * ray.y + cp * ray.z);
      vec3 world = normalize(vec3(cy * tilted.x + sy * tilted.z, tilted.y, -sy * tilted.x + cy * tilted.z));
      vec2 at = vec2(0.5 + atan(world.x, world.z) / (2.0 * PI), 0.5 + asin(clamp(world.y, -1.0, 1.0)) / PI);
      float radians = max(length(dFdx(world)), length(dFdy(world)));
      float texels = radians / PI * float(textureSize(panorama, 0).y);
      colour = vec4(textureLod(panorama, at, log2(texels)).rgb, 1.0);
    }`;

  const { find, canvas, gl, fitCanvas, makeButton, fail, wrapped, clamped, ...stage } = mvdiffStage("viewer", false);
  const methodBox = find(".methods"), thumbnailBox = find(".thumbnails");
  const readout = find(".readout"), flat = find(".flat"), captionBox = find(".captions > div");
  const panoramas = JSON.parse(find('script[type="application/json"]').textContent);
  const state = { ...START, panorama: 0, method: panoramas[0].methods[0].name };

  // ---- drawing ----
  let uniforms = null, textures = new Map(), drawn = null;

  function buildProgram() {
    const program = stage.buildProgram(VERTEX, FRAGMENT);
    uniforms = {
      halfExtent: gl.getUniformLocation(program, "halfExtent"),
      direction: gl.getUniformLocation(program, "direction"),
    };
    textures = new Map();
  }

  async function loadTexture(address) {
    const image = new Image();
    image.src = address;
    await image.decode();
    let source = image;
    const limit = gl.getParameter(gl.MAX_TEXTURE_SIZE);
    if (Math.max(image.naturalWidth, image.naturalHeight) > limit) {
      const scale = limit / Math.max(image.naturalWidth, image.naturalHeight);
      source = document.createElement("canvas");
      source.width = Math.floor(image.naturalWidth * scale);
      source.height = Math.floor(image.naturalHeight * scale);
      source.getContext("2d").drawImage(image, 0, 0, source.width, source.height);
    }
    const texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, source);
    gl.generateMipmap(gl.TEXTURE_2D);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, gl.REPEAT);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR_MIPMAP_LINEAR);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.LINEAR);
    return texture;
  }

  // The field of view is that of the longer side, so that a tall phone screen does not look through a fisheye.
  function halfExtent() {
    const half = Math.tan((state.fov * Math.PI) / 360), longer = Math.max(canvas.clientWidth, canvas.clientHeight) || 1;
    return [(half * canvas.clientWidth) / longer, (half * canvas.clientHeight) / longer];
  }

  function draw() {
    readout.textContent = `yaw ${Math.round(state.yaw)}° · pitch ${Math.round(state.pitch) > 0 ? "+" : ""}${Math.round(state.pitch)}° · FoV ${Math.round(state.fov)}°`;
    flat.querySelector("i").style.left = `${(0.5 + state.yaw / 360) * 100}%`;
    flat.querySelector("i").style.top = `${(0.5 - state.pitch / 180) * 100}%`;
    if (!gl || !drawn || gl.isContextLost()) return;
    fitCanvas();
    gl.bindTexture(gl.TEXTURE_2D, drawn);
    gl.uniform2f(uniforms.halfExtent, ...halfExtent());
    gl.uniform2f(uniforms.direction, (state.yaw * Math.PI) / 180, (state.pitch * Math.PI) / 180);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  // ---- what is shown ----
  function lookAt(yaw, pitch, fov = state.fov) {
    Object.assign(state, { yaw: wrapped(yaw), pitch: clamped(pitch, -90, 90), fov: clamped(fov, MIN_FOV, MAX_FOV) });
    draw();
  }

  // Show a panorama as a method made it; the view direction stays. Only the shown panorama's textures are kept.
  async function select(panorama, method = state.method) {
    const entry = panoramas[panorama];
    const chosen = entry.methods.find((one) => one.name === method) || entry.methods[0];
    const moved = panorama !== state.panorama;
    Object.assign(state, { panorama, method: chosen.name });
    methodBox.replaceChildren();
    if (entry.methods.length > 1) {
      for (const one of entry.methods) {
        makeButton(methodBox, one === chosen, () => show(panorama, one.name), one.name);
      }
    }
    [...thumbnailBox.children].forEach((child, index) => child.setAttribute("aria-pressed", String(index === panorama)));
    flat.querySelector("img").src = chosen.image;
    captionBox.replaceChildren(...entry.captions.map((caption) => {
      const line = document.createElement("p");
      line.textContent = caption;
      return line;
    }));
    if (gl && !gl.isContextLost()) {
      if (moved) {
        textures.forEach((texture) => texture.then((loaded) => gl.deleteTexture(loaded)));
        textures = new Map();
      }
      for (const one of entry.methods) {
        if (!textures.has(one.name)) textures.set(one.name, loadTexture(one.image));
      }
      const texture = await textures.get(chosen.name);
      if (state.panorama !== panorama || state.method !== chosen.name) return;
      drawn = texture;
    }
    draw();
  }

  function show(panorama, method) {
    viewer.ready = select(panorama, method).catch((error) => fail(`The panorama cannot be shown: ${error.message}`));
    return viewer.ready;
  }

  // ---- input ----
  // A drag pulls the scene along: what was under the pointer near the centre stays under it.
  function drag(dx, dy) {
    const degrees = (halfExtent()[0] * 360) / Math.PI / canvas.clientWidth;
    lookAt(state.yaw - dx * degrees, state.pitch + dy * degrees);
  }

  const turn = (yaw, pitch) => () => lookAt(state.yaw + (yaw * state.fov) / 18, state.pitch + (pitch * state.fov) / 18);
  const zoom = (ratio) => lookAt(state.yaw, state.pitch, state.fov * ratio);

  flat.addEventListener("click", (event) => {
    const box = flat.getBoundingClientRect();
    lookAt(((event.clientX - box.left) / box.width - 0.5) * 360, (0.5 - (event.clientY - box.top) / box.height) * 180);
  });
  stage.listen({
    drag,
    pinch: zoom,
    zoom,
    keys: { ArrowLeft: turn(-1, 0), ArrowRight: turn(1, 0), ArrowUp: turn(0, 1), ArrowDown: turn(0, -1) },
    choose: (number) => {
      const method = panoramas[state.panorama].methods[number - 1];
      return Boolean(method && show(state.panorama, method.name));
    },
    reset: () => lookAt(START.yaw, START.pitch, START.fov),
    restore: () => { buildProgram(); show(state.panorama, state.method); },
    draw,
  });

  // ---- start ----
  const viewer = { state, lookAt, select: show, ready: null, canvas };
  window.mvdiffViewer = viewer;
  if (panoramas.length > 1) {
    panoramas.forEach((entry, index) => {
      const image = new Image();
      image.src = entry.methods[0].image;
      image.alt = "";
      makeButton(thumbnailBox, index === 0, () => show(index, state.method), image, entry.title);
    });
  }
  if (gl) buildProgram();
  else fail("This browser has no WebGL 2; the whole panorama stands below.");
  show(0, state.method);
})();
