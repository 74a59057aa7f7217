// Meshes that one can rotate: plain WebGL 2, drawn only when something has changed.
//
// Frames: a mesh comes in its camera's frame (metres; x right, y down, z forward). It is shown with x right, y up and z towards
// the viewer, so that the first sight is the camera's own.
(() => {
  "use strict";

  const VERTEX = `#version 300 es
    in vec3 place, normal;
    uniform mat3 rotation;
    uniform vec3 centre;
    uniform float distance_m, near, far;
    uniform vec2 lens;
    out vec3 at, facing;
    void main() {
      at = rotation * (place - centre) - vec3(0.0, 0.0, distance_m);
      facing = rotation * normal;
      gl_Position = vec4(at.xy * lens, (-at.z * (far + near) - 2.0 * far * near) / (far - near), -at.z);
    }`;
  // Key from the upper left, a weaker fill, sky and ground, a rim; mixed as linear light. Normals are rotated to the viewer, for a
  // hand is open at the wrist and a left one may be a right one in a mirror.
  const FRAGMENT = `#version 300 es
    precision highp float;
    in vec3 at, facing;
    uniform vec3 colour;
    uniform float opacity;
    out vec4 pixel;
    void main() {
      vec3 view = normalize(-at), n = normalize(facing);
      n = dot(n, view) < 0.0 ? -n : n;
      vec3 key = normalize(vec3(-0.45, 0.65, 0.75));
      float light = 0.12 + 0.20 * (0.5 + 0.5 * n.y) + 0.72 * max(dot(n, key), 0.0) + 0.12 * max(dot(n, normalize(vec3(0.8, 0.1, 0.5))), 0.0);
      float gloss = 0.10 * pow(max(dot(n, normalize(key + view)), 0.0), 28.0);
      float rim = 0.12 * pow(1.0 - max(dot(n, view), 0.0), 3.0);
      pixel = vec4(pow(pow(colour, vec3(2.2)) * light + gloss + rim, vec3(1.0 / 2.2)), 1.0) * opacity;
    }`;
  const COLOURS = {predicted: [0.64, 0.72, 0.82], true: [0.91, 0.64, 0.36]};
  const VIEWS = {camera: [0, 0], side: [-Math.PI / 2, 0], top: [0, Math.PI / 2]};
  const LENS = 1 / Math.tan(0.26);  // half of the angle of view, radians
  const GHOST = 0.5;  // opacity of the truth over the prediction
  const STEP = Math.PI / 24;

  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;

  function vertices(packed) {
    const numbers = new Uint16Array(bytes(packed.data));
    return Float32Array.from(numbers, (n, i) => {
      const place = packed.origin[i % 3] + packed.step[i % 3] * n;
      return i % 3 === 0 ? place : -place;
    });
  }

  // Sums of the faces' normals, which weighs a face by its area.
  function normals(places, faces) {
    const out = new Float32Array(places.length);
    for (let f = 0; f < faces.length; f += 3) {
      const [a, b, c] = [3 * faces[f], 3 * faces[f + 1], 3 * faces[f + 2]];
      const ux = places[b] - places[a], uy = places[b + 1] - places[a + 1], uz = places[b + 2] - places[a + 2];
      const vx = places[c] - places[a], vy = places[c + 1] - places[a + 1], vz = places[c + 2] - places[a + 2];
      const n = [uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx];
      for (const corner of [a, b, c]) for (let k = 0; k < 3; k++) out[corner + k] += n[k];
    }
    return out;
  }

  function meanOf(places) {
    const sum = [0, 0, 0];
    places.forEach((value, i) => { sum[i % 3] += value; });
    return sum.map((value) => 3 * value / places.length);
  }

  // The middle of the box around points, and the largest distance of one from it.
  function around(clouds) {
    const low = [Infinity, Infinity, Infinity], high = low.map((value) => -value);
    for (const {places, shift} of clouds) {
      places.forEach((value, i) => {
        low[i % 3] = Math.min(low[i % 3], value + shift[i % 3]);
        high[i % 3] = Math.max(high[i % 3], value + shift[i % 3]);
      });
    }
    const middle = low.map((value, k) => (value + high[k]) / 2);
    let radius = 0;
    for (const {places, shift} of clouds) {
      for (let i = 0; i < places.length; i += 3) {
        radius = Math.max(radius, Math.hypot(...[0, 1, 2].map((k) => places[i + k] + shift[k] - middle[k])));
      }
    }
    return {middle, radius};
  }

  function turnOf(yaw, pitch) {
    const [s, c, p, q] = [Math.sin(yaw), Math.cos(yaw), Math.sin(pitch), Math.cos(pitch)];
    return [c, p * s, -q * s, 0, q, p, s, -p * c, q * c];  // by columns: the pitch after the yaw
  }

  // The graphics card's side: programs and buffers; made anew after the context was lost.
  class Painter {
    constructor(gl) {
      this.gl = gl;
      this.program = gl.createProgram();
      for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
        const shader = gl.createShader(kind);
        gl.shaderSource(shader, text);
        gl.compileShader(shader);
        gl.attachShader(this.program, shader);
      }
      gl.linkProgram(this.program);
      if (!gl.getProgramParameter(this.program, gl.LINK_STATUS) && !gl.isContextLost()) {
        throw new Error(gl.getProgramInfoLog(this.program));
      }
      gl.useProgram(this.program);
      gl.enable(gl.DEPTH_TEST);
      gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
      this.buffers = new Map();
    }

    uniform(name) { return this.gl.getUniformLocation(this.program, name); }

    upload(mesh, faces) {
      const gl = this.gl, array = gl.createVertexArray();
      gl.bindVertexArray(array);
      for (const [name, data] of [["place", mesh.places], ["normal", mesh.normals]]) {
        const at = gl.getAttribLocation(this.program, name);
        gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
        gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
        gl.enableVertexAttribArray(at);
        gl.vertexAttribPointer(at, 3, gl.FLOAT, false, 0, 0);
      }
      gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
      gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, faces, gl.STATIC_DRAW);
      return array;
    }

    clear(width, height, rotation, distance, radius) {
      const gl = this.gl, narrow = Math.min(1, width / height);
      gl.viewport(0, 0, width, height);
      gl.clearColor(0, 0, 0, 0);
      gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
      gl.uniformMatrix3fv(this.uniform("rotation"), false, rotation);
      gl.uniform1f(this.uniform("distance_m"), distance);
      gl.uniform1f(this.uniform("near"), Math.max(distance - 2 * radius, distance / 100));
      gl.uniform1f(this.uniform("far"), distance + 2 * radius);
      gl.uniform2f(this.uniform("lens"), LENS * narrow * height / width, LENS * narrow);
    }

    draw(mesh, faces, centre, colour, opacity) {
      const gl = this.gl, kind = faces.BYTES_PER_ELEMENT === 2 ? gl.UNSIGNED_SHORT : gl.UNSIGNED_INT;
      if (!this.buffers.has(mesh)) this.buffers.set(mesh, this.upload(mesh, faces));
      gl.bindVertexArray(this.buffers.get(mesh));
      gl.uniform3fv(this.uniform("centre"), centre);
      gl.uniform3fv(this.uniform("colour"), colour);
      gl.uniform1f(this.uniform("opacity"), opacity);
      gl.depthFunc(gl.LESS);
      if (opacity < 1) {
        // Depth first, then only what is nearest: a ghost must not show its own far side.
        gl.colorMask(false, false, false, false);
        gl.drawElements(gl.TRIANGLES, faces.length, kind, 0);
        gl.colorMask(true, true, true, true);
        gl.depthFunc(gl.EQUAL);
        gl.enable(gl.BLEND);
      }
      gl.drawElements(gl.TRIANGLES, faces.length, kind, 0);
      gl.disable(gl.BLEND);
    }
  }

  class Viewer {
    constructor(root, sheets) {
      const data = JSON.parse(root.querySelector("script").textContent);
      Object.assign(this, {root, sheets, packed: data.meshes.examples, facts: data.facts, canvas: root.querySelector("canvas"),
        meshes: new Map(), scenes: new Map(), example: 0, show: "predicted", yaw: 0, pitch: 0, zoom: 1, pointers: new Map(), asked: false});
      const codes = bytes(data.meshes.faces.data);
      this.faces = data.meshes.faces.bits === 16 ? new Uint16Array(codes) : new Uint32Array(codes);
      this.together = root.querySelector("input");
      this.together.checked = true;
      this.wireControls();
      // preserveDrawingBuffer, because a page that is printed copies the canvas after it was shown.
      const gl = this.canvas.getContext("webgl2", {antialias: true, alpha: true, premultipliedAlpha: true, preserveDrawingBuffer: true});
      if (gl === null) {
        root.classList.add("still");
        root.querySelector(".nowebgl").hidden = false;
        this.still = document.createElement("img");
        root.querySelector(".stage").append(this.still);
      } else {
        this.painter = new Painter(gl);
        this.wireCanvas();
        new ResizeObserver(() => this.ask()).observe(this.canvas);
      }
      this.choose(0);
    }

    wireControls() {
      this.root.addEventListener("click", (event) => {
        const chosen = event.target.closest("button")?.dataset ?? {};
        if (chosen.example !== undefined) this.choose(Number(chosen.example));
        if (chosen.show !== undefined) { this.show = chosen.show; this.press("show", chosen.show); this.ask(); }
        if (chosen.view !== undefined) { [this.yaw, this.pitch] = VIEWS[chosen.view]; this.zoom = 1; this.ask(); }
      });
      this.together.addEventListener("change", () => this.ask());
    }

    press(name, value) {
      for (const button of this.root.querySelectorAll(`[data-${name}]`)) {
        button.setAttribute("aria-pressed", String(button.dataset[name] === String(value)));
      }
    }

    choose(example) {
      this.example = example;
      this.press("example", example);
      for (const [name, words] of Object.entries(this.facts[example])) {
        this.root.querySelector(`[data-fact="${name}"]`).textContent = words;
      }
      const sheet = this.sheets(example);
      const shown = this.still ?? this.thumb ?? (this.thumb = this.root.querySelector(".thumb").appendChild(document.createElement("img")));
      shown.hidden = !sheet;
      if (sheet) { shown.src = sheet.src; shown.alt = sheet.alt; }
      this.ask();
    }

    // The mesh of an example, decoded when it is first shown.
    mesh(which) {
      const name = `${this.example} ${which}`;
      if (!this.meshes.has(name)) {
        const places = vertices(this.packed[this.example][which]);
        this.meshes.set(name, {places, normals: normals(places, this.faces), mean: meanOf(places)});
      }
      return this.meshes.get(name);
    }

    ask() {
      if (this.asked || !this.painter) return;
      this.asked = true;
      requestAnimationFrame(() => { this.asked = false; this.draw(); });
    }

    draw() {
      const ratio = Math.min(window.devicePixelRatio || 1, 2), canvas = this.canvas;
      const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
      if (!width || !height || this.painter.gl.isContextLost()) return;
      if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
      const {predicted, truth, radius} = this.scene();
      const distance = radius * Math.hypot(1, LENS) / this.zoom;
      this.painter.clear(width, height, turnOf(this.yaw, this.pitch), distance, radius);
      if (this.show !== "true") this.painter.draw(predicted.mesh, this.faces, predicted.centre, COLOURS.predicted, 1);
      if (this.show !== "predicted") this.painter.draw(truth.mesh, this.faces, truth.centre, COLOURS.true, this.show === "both" ? GHOST : 1);
      this.drawScale(Math.min(width, height) / ratio * LENS / 2 / distance);
    }

    // Both meshes with the point that each is rotated about. Both count, shown or not: switching one on moves nothing.
    scene() {
      const name = `${this.example} ${this.together.checked}`;
      if (!this.scenes.has(name)) {
        const [predicted, truth] = [this.mesh("predicted"), this.mesh("true")];
        const shift = truth.mean.map((value, k) => (this.together.checked ? predicted.mean[k] - value : 0));
        const {middle, radius} = around([{places: predicted.places, shift: [0, 0, 0]}, {places: truth.places, shift}]);
        this.scenes.set(name, {radius, predicted: {mesh: predicted, centre: middle},
          truth: {mesh: truth, centre: middle.map((value, k) => value - shift[k])}});
      }
      return this.scenes.get(name);
    }

    // A bar of a round length, as long as it would be at the mesh's centre.
    drawScale(pixelsPerMetre) {
      const most = 110 / pixelsPerMetre, power = 10 ** Math.floor(Math.log10(most));
      const length = power * [5, 2, 1].find((step) => step * power <= most);
      const words = length >= 1 ? `${length.toFixed(0)} m` : length >= 0.01 ? `${(100 * length).toFixed(0)} cm` : `${(1000 * length).toFixed(0)} mm`;
      this.root.querySelector(".scale span").textContent = words;
      this.root.querySelector(".scale i").style.width = `${length * pixelsPerMetre}px`;
    }

    rotate(yaw, pitch) {
      this.yaw += yaw;
      this.pitch = Math.min(Math.max(this.pitch + pitch, -Math.PI / 2), Math.PI / 2);
      this.ask();
    }

    zoomBy(factor) {
      this.zoom = Math.min(Math.max(this.zoom * factor, 0.3), 12);
      this.ask();
    }

    wireCanvas() {
      const canvas = this.canvas;
      canvas.addEventListener("pointerdown", (event) => {
        canvas.setPointerCapture(event.pointerId);
        this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
      });
      canvas.addEventListener("pointermove", (event) => this.move(event));
      for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
        canvas.addEventListener(end, (event) => this.pointers.delete(event.pointerId));
      }
      canvas.addEventListener("wheel", (event) => {
        if (document.activeElement !== canvas) return;  // else a page could not be scrolled past the mesh
        event.preventDefault();
        this.zoomBy(Math.exp(-event.deltaY * (event.deltaMode === 1 ? 0.03 : 0.0015)));
      }, {passive: false});
      canvas.addEventListener("keydown", (event) => this.type(event));
      canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
      canvas.addEventListener("webglcontextrestored", () => { this.painter = new Painter(this.painter.gl); this.ask(); });
    }

    move(event) {
      const before = this.pointers.get(event.pointerId);
      if (before === undefined) return;
      const spread = () => { const [a, b] = [...this.pointers.values()]; return Math.hypot(a[0] - b[0], a[1] - b[1]); };
      const now = [event.clientX, event.clientY], apart = this.pointers.size === 2 ? spread() : 0;
      this.pointers.set(event.pointerId, now);
      if (this.pointers.size === 1) this.rotate((now[0] - before[0]) / 110, (now[1] - before[1]) / 110);
      if (apart > 0) this.zoomBy(spread() / apart);
    }

    type(event) {
      const actions = {ArrowLeft: () => this.rotate(-STEP, 0), ArrowRight: () => this.rotate(STEP, 0), ArrowUp: () => this.rotate(0, -STEP),
        ArrowDown: () => this.rotate(0, STEP), "+": () => this.zoomBy(1.15), "=": () => this.zoomBy(1.15), "-": () => this.zoomBy(1 / 1.15),
        0: () => { [this.yaw, this.pitch, this.zoom] = [0, 0, 1]; this.ask(); }};
      if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in actions)) return;
      event.preventDefault();
      actions[event.key]();
    }
  }

  for (const gallery of document.querySelectorAll(".evaluation")) {
    const root = gallery.querySelector(".viewer");
    if (root === null) continue;
    const viewer = new Viewer(root, (index) => gallery.querySelector(`[data-sheet="${index}"] img`));
    for (const button of gallery.querySelectorAll("[data-turn]")) {
      button.addEventListener("click", () => { viewer.choose(Number(button.dataset.turn)); root.scrollIntoView({block: "start"}); });
    }
  }
})();
