// A video and the people in it: their meshes are skinned here, from the same rig and rotations that the files of animation hold.
//
// Frames: metres; x right, y up, z towards the camera, which is at the origin.
(() => {
  "use strict";

  const VERTEX = `#version 300 es
    in vec3 place, normal, tint;
    uniform mat3 rotation;
    uniform vec3 centre;
    uniform float distance_m, near, far;
    uniform vec2 lens, shift;
    out vec3 at, facing, colour;
    void main() {
      at = rotation * (place - centre) - vec3(0.0, 0.0, distance_m);
      facing = rotation * normal;
      colour = tint;
      gl_Position = vec4(at.xy * lens - at.z * shift, (-at.z * (far + near) - 2.0 * far * near) / (far - near), -at.z);
    }`;
  const FRAGMENT = `#version 300 es
    precision highp float;
    in vec3 at, facing, colour;
    out vec4 pixel;
    void main() {
      vec3 view = normalize(-at), n = normalize(facing);
      n = dot(n, view) < 0.0 ? -n : n;
      float light = 0.22 + 0.2 * (0.5 + 0.5 * n.y) + 0.62 * max(dot(n, normalize(vec3(-0.45, 0.65, 0.75))), 0.0);
      pixel = vec4(pow(pow(colour, vec3(2.2)) * light, vec3(1.0 / 2.2)), 1.0);
    }`;
  const VIEWS = {camera: [0, 0], side: [-Math.PI / 2, 0], top: [0, Math.PI / 2]};
  const LENS = 1 / Math.tan(0.26);  // half of the free view's angle, radians
  const STEP = Math.PI / 24;
  const UNIT = 32767;  // of a quaternion's numbers
  const ROW = 16, GAP = 5, LABEL = 96;  // pixels of the timeline

  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;

  // One person: the rig at rest, and what turns it.
  class Track {
    constructor(packed) {
      Object.assign(this, {name: packed.name, colour: packed.colour.map((value) => value / 255), parents: packed.parents, count: packed.influences});
      for (const [key, kind] of [["frames", Int32Array], ["confidence", Float32Array], ["offsets", Float32Array], ["rest", Float32Array],
        ["faces", Uint32Array], ["owners", Uint16Array], ["shares", Float32Array], ["turns", Int16Array], ["places", Float32Array]]) {
        this[key] = new kind(bytes(packed[key]));
      }
      this.tints = null;  // of vertices, where the network says how sure it is
      if (packed.surface) {
        Object.assign(this, {surface: new Float32Array(bytes(packed.surface)), near: new Uint8Array(bytes(packed.near)), nearness: new Uint8Array(bytes(packed.nearness)),
          ends: packed.ends.map(Math.log), bands: new Uint8Array(bytes(packed.bands)), tints: new Float32Array(this.rest.length)});
      }
      this.rows = new Map(Array.from(this.frames, (frame, row) => [frame, row]));
      const joints = this.parents.length;
      this.joints = this.offsets.slice();
      for (let j = 1; j < joints; j++) for (let k = 0; k < 3; k++) this.joints[3 * j + k] += this.joints[3 * this.parents[j] + k];
      this.vertices = new Float32Array(this.rest.length);
      this.normals = new Float32Array(this.rest.length);
      this.row = -1;
    }

    // Rotations of all joints in the world (9 numbers each, by rows), and where each then moves a resting point.
    chain(row) {
      const joints = this.parents.length, turned = new Float64Array(9 * joints), at = new Float64Array(3 * joints), moves = new Float64Array(3 * joints);
      for (let j = 0; j < joints; j++) {
        const q = 4 * (row * joints + j), p = this.parents[j];
        let [x, y, z, w] = [this.turns[q] / UNIT, this.turns[q + 1] / UNIT, this.turns[q + 2] / UNIT, this.turns[q + 3] / UNIT];
        const size = Math.hypot(x, y, z, w);
        [x, y, z, w] = [x / size, y / size, z / size, w / size];
        const local = [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w), 2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w),
          2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)];
        for (let r = 0; r < 3; r++) {
          for (let c = 0; c < 3; c++) {
            turned[9 * j + 3 * r + c] = p < 0 ? local[3 * r + c] : turned[9 * p + 3 * r] * local[c] + turned[9 * p + 3 * r + 1] * local[3 + c] + turned[9 * p + 3 * r + 2] * local[6 + c];
          }
          at[3 * j + r] = p < 0 ? this.places[3 * row + r] : at[3 * p + r] + turned[9 * p + 3 * r] * this.offsets[3 * j] + turned[9 * p + 3 * r + 1] * this.offsets[3 * j + 1] + turned[9 * p + 3 * r + 2] * this.offsets[3 * j + 2];
        }
        for (let r = 0; r < 3; r++) {
          moves[3 * j + r] = at[3 * j + r] - turned[9 * j + 3 * r] * this.joints[3 * j] - turned[9 * j + 3 * r + 1] * this.joints[3 * j + 1] - turned[9 * j + 3 * r + 2] * this.joints[3 * j + 2];
        }
      }
      return {turned, moves};
    }

    // Linear blend skinning of a row; nothing is done twice.
    pose(row) {
      if (row === this.row) return;
      this.row = row;
      const {turned, moves} = this.chain(row), {rest, vertices, owners, shares, count} = this;
      for (let v = 0, i = 0; i < rest.length; v++, i += 3) {
        let px = 0, py = 0, pz = 0;
        const x = rest[i], y = rest[i + 1], z = rest[i + 2];
        for (let k = v * count; k < (v + 1) * count; k++) {
          const share = shares[k];
          if (share === 0) break;  // the largest come first
          const m = 9 * owners[k], t = 3 * owners[k];
          px += share * (turned[m] * x + turned[m + 1] * y + turned[m + 2] * z + moves[t]);
          py += share * (turned[m + 3] * x + turned[m + 4] * y + turned[m + 5] * z + moves[t + 1]);
          pz += share * (turned[m + 6] * x + turned[m + 7] * y + turned[m + 8] * z + moves[t + 2]);
        }
        vertices[i] = px; vertices[i + 1] = py; vertices[i + 2] = pz;
      }
      this.shade();
      if (this.tints) this.colourVertices();
    }

    // The band of each vertex's standard deviation, a mean of those of the points around it.
    colourVertices() {
      const {surface, near, nearness, tints, bands, row, ends: [low, high]} = this, count = tints.length / 3, points = surface.length / this.frames.length;
      const each = near.length / count, most = bands.length / 3 - 1;
      for (let v = 0; v < count; v++) {
        let sd = 0, whole = 0;
        for (let k = v * each; k < (v + 1) * each; k++) { sd += nearness[k] * surface[row * points + near[k]]; whole += nearness[k]; }
        const share = (Math.log(Math.max(sd / whole, 1e-9)) - low) / (high - low), band = 3 * Math.min(Math.max(Math.floor((most + 1) * share), 0), most);
        for (let k = 0; k < 3; k++) tints[3 * v + k] = bands[band + k] / 255;
      }
    }

    shade() {
      const {vertices, normals, faces} = this;
      normals.fill(0);
      for (let f = 0; f < faces.length; f += 3) {
        const [a, b, c] = [3 * faces[f], 3 * faces[f + 1], 3 * faces[f + 2]];
        const ux = vertices[b] - vertices[a], uy = vertices[b + 1] - vertices[a + 1], uz = vertices[b + 2] - vertices[a + 2];
        const vx = vertices[c] - vertices[a], vy = vertices[c + 1] - vertices[a + 1], vz = vertices[c + 2] - vertices[a + 2];
        const nx = uy * vz - uz * vy, ny = uz * vx - ux * vz, nz = ux * vy - uy * vx;
        for (const corner of [a, b, c]) { normals[corner] += nx; normals[corner + 1] += ny; normals[corner + 2] += nz; }
      }
    }
  }

  // One canvas of the graphics card.
  class Painter {
    constructor(canvas) {
      this.canvas = canvas;
      this.gl = canvas.getContext("webgl2", {antialias: true, alpha: true, premultipliedAlpha: true, preserveDrawingBuffer: true});
      if (this.gl) this.open();
    }

    open() {
      const gl = this.gl;
      this.program = gl.createProgram();
      for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
        const shader = gl.createShader(kind);
        gl.shaderSource(shader, text);
        gl.compileShader(shader);
        gl.attachShader(this.program, shader);
      }
      gl.linkProgram(this.program);
      if (!gl.getProgramParameter(this.program, gl.LINK_STATUS) && !gl.isContextLost()) throw new Error(gl.getProgramInfoLog(this.program));
      gl.useProgram(this.program);
      gl.enable(gl.DEPTH_TEST);
      this.buffers = new Map();
    }

    buffersOf(track) {
      if (this.buffers.has(track)) return this.buffers.get(track);
      const gl = this.gl, array = gl.createVertexArray(), made = {array, row: -1};
      gl.bindVertexArray(array);
      for (const name of track.tints ? ["place", "normal", "tint"] : ["place", "normal"]) {
        const at = gl.getAttribLocation(this.program, name);
        made[name] = gl.createBuffer();
        gl.bindBuffer(gl.ARRAY_BUFFER, made[name]);
        gl.enableVertexAttribArray(at);
        gl.vertexAttribPointer(at, 3, gl.FLOAT, false, 0, 0);
      }
      gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
      gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, track.faces, gl.STATIC_DRAW);
      this.buffers.set(track, made);
      return made;
    }

    draw(tracks, view) {
      const gl = this.gl, canvas = this.canvas, ratio = Math.min(window.devicePixelRatio || 1, 2);
      const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
      if (!gl || gl.isContextLost() || !width || !height) return;
      if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
      gl.viewport(0, 0, width, height);
      gl.clearColor(0, 0, 0, 0);
      gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
      const place = (name) => gl.getUniformLocation(this.program, name);
      gl.uniformMatrix3fv(place("rotation"), false, view.rotation);
      gl.uniform3fv(place("centre"), view.centre);
      gl.uniform1f(place("distance_m"), view.distance);
      gl.uniform1f(place("near"), view.near);
      gl.uniform1f(place("far"), view.far);
      gl.uniform2fv(place("lens"), view.lens(width / height));
      gl.uniform2fv(place("shift"), view.shift);
      for (const track of tracks) {
        const made = this.buffersOf(track);
        gl.bindVertexArray(made.array);
        if (made.row !== track.row) {
          for (const [name, data] of [["place", track.vertices], ["normal", track.normals], ["tint", track.tints]]) {
            if (!data) continue;
            gl.bindBuffer(gl.ARRAY_BUFFER, made[name]);
            gl.bufferData(gl.ARRAY_BUFFER, data, gl.DYNAMIC_DRAW);
          }
          made.row = track.row;
        }
        if (!track.tints) gl.vertexAttrib3fv(gl.getAttribLocation(this.program, "tint"), track.colour);
        gl.drawElements(gl.TRIANGLES, track.faces.length, gl.UNSIGNED_INT, 0);
      }
    }
  }

  function turnOf(yaw, pitch) {
    const [s, c, p, q] = [Math.sin(yaw), Math.cos(yaw), Math.sin(pitch), Math.cos(pitch)];
    return [c, p * s, -q * s, 0, q, p, s, -p * c, q * c];  // by columns: the pitch after the yaw
  }

  class Player {
    constructor(root) {
      const take = JSON.parse(root.querySelector(".take").textContent);
      const find = (name) => root.querySelector(name);
      Object.assign(this, {root, take, tracks: take.tracks.map((one) => new Track(one)), video: find("video"), timeline: find(".timeline"), clock: find(".clock"),
        shown: find(".shown"), play: find(".play"), yaw: 0, pitch: 0, zoom: 1.4, frame: 0, asked: false, pointers: new Map()});
      this.onVideo = new Painter(find(".onvideo"));
      this.free = new Painter(find(".free"));
      find(".nowebgl").hidden = this.onVideo.gl !== null;
      this.frameWorld();
      this.wire();
      this.ask();
    }

    // The free view turns about the middle of all places where anybody is, and shows all of them.
    frameWorld() {
      const low = [Infinity, Infinity, Infinity], high = low.map((value) => -value);
      for (const {places} of this.tracks) places.forEach((value, i) => { low[i % 3] = Math.min(low[i % 3], value); high[i % 3] = Math.max(high[i % 3], value); });
      this.centre = low.map((value, k) => (value + high[k]) / 2);
      const reach = Math.max(...this.tracks.map((one) => one.rest.reduce((most, value) => Math.max(most, Math.abs(value)), 0)));
      this.radius = reach * 1.15 + Math.hypot(...low.map((value, k) => (high[k] - value) / 2));
    }

    wire() {
      const {video, root, timeline} = this;
      this.play.addEventListener("click", () => this.toggle());
      for (const name of ["play", "pause", "ended"]) video.addEventListener(name, () => { this.play.textContent = video.paused ? "Play" : "Pause"; this.follow(); });
      for (const name of ["seeked", "loadeddata", "timeupdate"]) video.addEventListener(name, () => this.show(video.currentTime));
      root.querySelector(".speed").addEventListener("change", (event) => { video.playbackRate = Number(event.target.value); });
      this.shown.addEventListener("change", () => this.ask());
      for (const button of root.querySelectorAll("[data-step]")) button.addEventListener("click", () => this.step(Number(button.dataset.step)));
      for (const button of root.querySelectorAll("[data-view]")) button.addEventListener("click", () => { [this.yaw, this.pitch] = VIEWS[button.dataset.view]; this.zoom = 1.4; this.ask(); });
      const seek = (event) => this.seek(this.frameAt(event));
      timeline.addEventListener("pointerdown", (event) => { timeline.setPointerCapture(event.pointerId); this.dragging = true; seek(event); });
      timeline.addEventListener("pointermove", (event) => { if (this.dragging) seek(event); });
      for (const end of ["pointerup", "pointercancel"]) timeline.addEventListener(end, () => { this.dragging = false; });
      timeline.addEventListener("keydown", (event) => this.type(event, {ArrowLeft: () => this.step(-1), ArrowRight: () => this.step(1), " ": () => this.toggle()}));
      this.wireSpace(this.free.canvas);
      new ResizeObserver(() => this.ask()).observe(root);
    }

    wireSpace(canvas) {
      canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); this.pointers.set(event.pointerId, [event.clientX, event.clientY]); });
      canvas.addEventListener("pointermove", (event) => {
        const before = this.pointers.get(event.pointerId);
        if (before === undefined) return;
        this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
        this.rotate((event.clientX - before[0]) / 110, (event.clientY - before[1]) / 110);
      });
      for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) canvas.addEventListener(end, (event) => this.pointers.delete(event.pointerId));
      canvas.addEventListener("wheel", (event) => {
        if (document.activeElement !== canvas) return;  // else a page could not be scrolled past the mesh
        event.preventDefault();
        this.zoomBy(Math.exp(-event.deltaY * 0.0015));
      }, {passive: false});
      canvas.addEventListener("keydown", (event) => this.type(event, {ArrowLeft: () => this.rotate(-STEP, 0), ArrowRight: () => this.rotate(STEP, 0),
        ArrowUp: () => this.rotate(0, -STEP), ArrowDown: () => this.rotate(0, STEP), "+": () => this.zoomBy(1.15), "=": () => this.zoomBy(1.15), "-": () => this.zoomBy(1 / 1.15), " ": () => this.toggle()}));
    }

    type(event, actions) {
      if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in actions)) return;
      event.preventDefault();
      actions[event.key]();
    }

    rotate(yaw, pitch) {
      this.yaw += yaw;
      this.pitch = Math.min(Math.max(this.pitch + pitch, -Math.PI / 2), Math.PI / 2);
      this.ask();
    }

    zoomBy(factor) { this.zoom = Math.min(Math.max(this.zoom * factor, 0.3), 12); this.ask(); }

    toggle() { if (this.video.paused) this.video.play(); else this.video.pause(); }

    step(by) { this.video.pause(); this.seek(this.frame + by); }

    // To the middle of a frame: its first moment may still be the one before in a browser's arithmetic.
    seek(frame) {
      const {times} = this.take, at = Math.min(Math.max(frame, 0), times.length - 1);
      const end = at + 1 < times.length ? times[at + 1] : times[at] + 1 / this.take.fps;
      this.video.currentTime = (times[at] + end) / 2;
      this.show(this.video.currentTime);
    }

    // While it plays, each shown frame asks for its mesh.
    follow() {
      if (this.video.paused || this.following) return;
      this.following = true;
      const next = (time) => { this.following = false; this.show(time); this.follow(); };
      if (this.video.requestVideoFrameCallback) this.video.requestVideoFrameCallback((_, facts) => next(facts.mediaTime + 0.25 / this.take.fps));
      else requestAnimationFrame(() => next(this.video.currentTime));
    }

    show(time) {
      const {times} = this.take;
      let low = 0, high = times.length - 1;
      while (low < high) { const middle = (low + high + 1) >> 1; if (times[middle] <= time) low = middle; else high = middle - 1; }
      this.frame = low;
      this.ask();
    }

    frameAt(event) {
      const box = this.timeline.getBoundingClientRect(), share = (event.clientX - box.left - LABEL) / (box.width - LABEL - 8);
      return Math.round(Math.min(Math.max(share, 0), 1) * (this.take.times.length - 1));
    }

    ask() {
      if (this.asked) return;
      this.asked = true;
      requestAnimationFrame(() => { this.asked = false; this.draw(); });
    }

    draw() {
      const {take} = this, there = [];
      this.tracks.forEach((track, number) => {
        const row = track.rows.get(this.frame);
        if (row !== undefined) { track.pose(row); there.push(track); }
        const away = row === undefined ? 0 : Math.hypot(...track.places.subarray(3 * row, 3 * row + 3));
        this.root.querySelector(`[data-confidence="${number}"]`).textContent = row === undefined ? "not found" : track.confidence[row].toFixed(2);
        this.root.querySelector(`[data-distance="${number}"]`).textContent = row === undefined ? "" : `${away.toFixed(2)} m`;
      });
      const [fx, fy, cx, cy] = take.intrinsics, [width, height] = take.size;
      this.onVideo.draw(this.shown.checked ? there : [], {rotation: turnOf(0, 0), centre: [0, 0, 0], distance: 0, near: 0.05, far: 1000,
        lens: () => [2 * fx / width, 2 * fy / height], shift: [2 * cx / width - 1, 1 - 2 * cy / height]});
      const distance = this.radius * Math.hypot(1, LENS) / this.zoom;
      this.free.draw(there, {rotation: turnOf(this.yaw, this.pitch), centre: this.centre, distance, near: Math.max(distance - 2 * this.radius, distance / 100), far: distance + 2 * this.radius,
        lens: (aspect) => { const narrow = Math.min(1, aspect); return [LENS * narrow / aspect, LENS * narrow]; }, shift: [0, 0]});
      this.clock.textContent = `frame ${this.frame} of ${take.times.length}, ${take.times[this.frame].toFixed(2)} s`;
      this.timeline.setAttribute("aria-valuetext", this.clock.textContent);
      this.drawTimeline();
    }

    drawTimeline() {
      const canvas = this.timeline, ratio = Math.min(window.devicePixelRatio || 1, 2), wide = canvas.clientWidth, high = this.tracks.length * (ROW + GAP) + GAP;
      canvas.style.height = `${high}px`;
      [canvas.width, canvas.height] = [Math.round(wide * ratio), Math.round(high * ratio)];
      const brush = canvas.getContext("2d"), count = this.take.times.length, room = wide - LABEL - 8;
      brush.scale(ratio, ratio);
      brush.font = "12px system-ui, sans-serif";
      brush.textBaseline = "middle";
      this.tracks.forEach((track, number) => {
        const top = GAP + number * (ROW + GAP);
        brush.globalAlpha = 1;
        brush.fillStyle = "#5b6473";
        brush.fillText(track.name, 6, top + ROW / 2, LABEL - 12);
        brush.fillStyle = `rgb(${track.colour.map((value) => Math.round(165 * value)).join(",")})`;
        track.frames.forEach((frame, row) => {
          brush.globalAlpha = 0.15 + 0.85 * Math.min(Math.max(track.confidence[row], 0), 1);
          brush.fillRect(LABEL + frame / count * room, top, Math.max(1, room / count + 0.3), ROW);
        });
      });
      brush.globalAlpha = 1;
      brush.fillStyle = "#1d2330";
      brush.fillRect(LABEL + (this.frame + 0.5) / count * room - 1, 0, 2, high);
    }
  }

  for (const root of document.querySelectorAll(".player")) new Player(root);
})();
