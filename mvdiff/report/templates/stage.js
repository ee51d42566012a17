// What the page's viewers share: a WebGL canvas in a frame, its buttons, and the pointers and keys that turn the view.
"use strict";
function mvdiffStage(id, antialias) {
  const root = document.getElementById(id), find = (selector) => root.querySelector(selector), canvas = find("canvas");
  const gl = canvas.getContext("webgl2", { antialias, alpha: false, preserveDrawingBuffer: true });

  function buildProgram(vertex, fragment) {
    const program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
    gl.useProgram(program);
    return program;
  }

  function fitCanvas() {
    const density = Math.min(window.devicePixelRatio || 1, 2);
    const width = Math.max(1, Math.round(canvas.clientWidth * density));
    const height = Math.max(1, Math.round(canvas.clientHeight * density));
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    gl.viewport(0, 0, width, height);
  }

  function makeButton(box, pressed, onclick, ...content) {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", String(pressed));
    button.append(...content);
    button.addEventListener("click", onclick);
    box.append(button);
  }

  function fail(message) {
    const note = document.createElement("p");
    note.className = "failed";
    note.textContent = message;
    find(".stage").append(note);
  }

  // Calls drag(dx, dy, event), pinch(ratio, dx, dy) and zoom(ratio), where a ratio below 1 comes nearer; an action of
  // `keys` by its key; choose(number), which says whether there is such a method; reset; restore, when the context is
  // back; draw, when the size changes.
  function listen({ drag, pinch, zoom, keys, choose, reset, restore, draw }) {
    const pointers = new Map();
    const spread = () => {
      const [a, b] = [...pointers.values()];
      return Math.hypot(a.x - b.x, a.y - b.y);
    };
    const lift = (event) => pointers.delete(event.pointerId);
    const actions = { ...keys, "+": () => zoom(1 / 1.1), "=": () => zoom(1 / 1.1), "-": () => zoom(1.1), Home: reset };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.focus({ preventScroll: true });
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    });
    canvas.addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId);
      if (!before) return;
      const apart = pointers.size === 2 ? spread() : null;
      pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
      const dx = event.clientX - before.x, dy = event.clientY - before.y;
      if (apart === null) drag(dx, dy, event);
      else pinch(apart / Math.max(spread(), 1), dx, dy);
    });
    canvas.addEventListener("pointerup", lift);
    canvas.addEventListener("pointercancel", lift);
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const pixels = event.deltaMode === WheelEvent.DOM_DELTA_PIXEL ? event.deltaY : event.deltaY * 30;
      zoom(Math.exp(pixels / 1000));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (actions[event.key]) actions[event.key]();
      else if (!choose(Number(event.key))) return;
      event.preventDefault();
    });
    find('[data-action="reset"]').addEventListener("click", reset);
    find('[data-action="fullscreen"]').addEventListener("click", () => {
      if (document.fullscreenElement) document.exitFullscreen();
      else find(".stage").requestFullscreen();
    });
    canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    canvas.addEventListener("webglcontextrestored", restore);
    new ResizeObserver(draw).observe(canvas);
  }

  const wrapped = (yaw) => 180 - ((((180 - yaw) % 360) + 360) % 360);  // degrees, in (-180, 180]
  const clamped = (value, low, high) => Math.min(high, Math.max(low, value));
  return { find, canvas, gl, buildProgram, fitCanvas, makeButton, fail, listen, wrapped, clamped };
}
