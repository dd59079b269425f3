"use strict";
// Synchronised players: all sources of an item start together, each through its own gain; switching only moves gains.
(() => {
  const items = JSON.parse(document.getElementById("listening").textContent);
  const root = document.getElementById("players");
  const matched = document.getElementById("matched");
  const FADE = 0.015; // seconds; long enough not to click
  const N_FFT = 2048, ROWS = 76, LOW_HZ = 50, HIGH_HZ = 16000, RANGE_DB = 75;
  const COLOURS = [[0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 164]];
  let context = null, playing = null;

  const make = (tag, properties = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;

  class Player {
    constructor(item, index) {
      this.item = item;
      this.index = index;
      this.active = Math.min(1, item.sources.length - 1); // the reference
      this.offset = 0;
      this.build();
    }

    build() {
      const title = make("h4", { id: `item-${this.index}` }, this.item.track,
        make("span", { className: "badge", textContent: this.item.which }),
        make("small", { textContent: `${this.item.target}, ${this.item.start.toFixed(1)} to ${(this.item.start + this.item.seconds).toFixed(1)} s` }));
      this.button = make("button", { type: "button", className: "play", textContent: "Play" });
      this.button.addEventListener("click", () => {
        this.button.focus({ preventScroll: true }); // Safari gives a clicked button no focus; the keys need one in here
        this.toggle();
      });
      this.slider = make("input", { type: "range", min: 0, max: this.item.seconds, step: 0.01, value: 0 });
      this.slider.setAttribute("aria-label", `Position in ${this.item.track}, seconds`);
      this.slider.addEventListener("input", () => this.seek(Number(this.slider.value)));
      this.time = make("output", { textContent: this.clock(0) });
      const list = make("div", { className: "sources" });
      list.setAttribute("role", "radiogroup");
      list.setAttribute("aria-label", "What to hear");
      this.views = this.item.sources.map((source, i) => this.row(list, source, i));
      this.node = make("article", { className: "item" }, title,
        make("div", { className: "controls" }, this.button, this.slider, this.time), list);
      this.node.setAttribute("aria-labelledby", title.id);
      this.node.addEventListener("keydown", (event) => this.key(event));
    }

    row(list, source, i) {
      const radio = make("input", { type: "radio", name: `source-${this.index}`, value: i, checked: i === this.active });
      radio.addEventListener("change", () => this.choose(i));
      const canvas = make("canvas", { width: 900, height: ROWS });
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `Spectrogram of ${source.name}`);
      const head = make("i");
      const view = make("div", { className: "view" }, canvas, head);
      view.addEventListener("click", (event) => {
        event.preventDefault(); // the label would choose once more
        const box = view.getBoundingClientRect();
        this.choose(i);
        this.seek(((event.clientX - box.left) / box.width) * this.item.seconds);
      });
      const score = make("small", { textContent: source.score });
      const text = make("span", {}, make("b", { textContent: source.name }), score);
      const name = make("span", { className: "name" }, radio, make("kbd", { textContent: i + 1, ariaHidden: "true" }), text);
      list.append(make("label", { className: "source" }, name, view));
      return { radio, canvas, head };
    }

    clock(seconds) { return `${seconds.toFixed(1)} of ${this.item.seconds.toFixed(1)} s`; }

    level(i) {
      const source = this.item.sources[i];
      return i === this.active ? (matched.checked ? source.matched * this.headroom : source.gain) : 0;
    }

    position() {
      if (playing !== this || !this.started) return this.offset;
      return (this.offset + context.currentTime - this.started) % this.item.seconds;
    }

    async toggle() { return playing === this ? this.stop() : this.play(); }

    async play() {
      if (playing) playing.stop();
      playing = this;
      context = context || new AudioContext();
      const focused = document.activeElement === this.button;
      this.button.disabled = true; // which takes its focus away
      try {
        await context.resume();
        this.buffers = this.buffers || await Promise.all(this.item.sources.map((s) => context.decodeAudioData(bytes(s.audio))));
      } catch (error) {
        this.time.textContent = "This browser cannot decode Ogg Opus.";
        playing = null;
        return;
      } finally {
        this.button.disabled = false;
        if (focused && document.activeElement === document.body) this.button.focus({ preventScroll: true });
      }
      this.headroom = headroom(this.buffers, this.item.sources);
      if (playing !== this) return; // another was started meanwhile
      this.start();
    }

    start() {
      const when = context.currentTime + 0.02;
      this.gains = this.buffers.map((buffer, i) => {
        const gain = new GainNode(context, { gain: this.level(i) });
        const node = new AudioBufferSourceNode(context, { buffer, loop: true, loopEnd: this.item.seconds });
        node.connect(gain).connect(context.destination);
        node.start(when, this.offset);
        gain.node = node;
        return gain;
      });
      this.started = when;
      this.button.textContent = "Pause";
      this.draw();
    }

    silence() {
      for (const gain of this.gains || []) { gain.node.stop(); gain.disconnect(); }
      this.gains = null;
    }

    stop() {
      this.offset = Math.max(0, this.position());
      this.silence();
      this.started = null;
      this.button.textContent = "Play";
      if (playing === this) playing = null;
      this.buffers = null; // ten seconds of five sources are 20 MB: one item at a time
      this.show();
    }

    seek(seconds) {
      this.offset = Math.min(Math.max(0, seconds), this.item.seconds - 0.01);
      if (playing === this && this.started) { this.silence(); this.start(); }
      this.show();
    }

    choose(i) {
      if (i < 0 || i >= this.views.length) return;
      this.active = i;
      this.views[i].radio.checked = true;
      this.levels();
    }

    levels() {
      (this.gains || []).forEach((gain, i) => gain.gain.setTargetAtTime(this.level(i), context.currentTime, FADE / 3));
    }

    key(event) {
      const typed = event.target.type;
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      if (event.key === " " && typed !== "submit" && typed !== "button") this.toggle();
      else if (event.key >= "1" && event.key <= "9") this.choose(Number(event.key) - 1);
      else if (event.key === "," || event.key === ".") this.seek(this.position() + (event.key === "," ? -1 : 1));
      else return;
      event.preventDefault();
    }

    show() {
      const position = this.position();
      for (const { head } of this.views) head.style.left = `${(100 * position) / this.item.seconds}%`;
      this.slider.value = position;
      this.slider.setAttribute("aria-valuetext", this.clock(position));
      this.time.textContent = this.clock(position);
    }

    draw() {
      if (playing !== this || !this.started) return;
      this.show();
      requestAnimationFrame(() => this.draw());
    }

    async picture() {
      if (this.pictured) return;
      this.pictured = true;
      const offline = new OfflineAudioContext(1, 1, 48000);
      const levels = [];
      try {
        for (const source of this.item.sources) {
          const buffer = await offline.decodeAudioData(bytes(source.audio));
          levels.push(spectrogram(buffer, source.gain));
        }
      } catch (error) { return; } // said when it is played
      const top = levels.reduce((most, level) => level.data.reduce((a, b) => Math.max(a, b), most), -Infinity);
      levels.forEach((level, i) => paint(this.views[i].canvas, level, top));
    }
  }

  // What all matched gains are lowered by together, so that they stay equal and the loudest sample is not clipped.
  function headroom(buffers, sources) {
    let most = 0.98;
    buffers.forEach((buffer, i) => {
      for (let c = 0; c < buffer.numberOfChannels; c++) {
        for (const x of buffer.getChannelData(c)) most = Math.max(most, Math.abs(x) * sources[i].matched);
      }
    });
    return 0.98 / most;
  }

  // Power in dB, rows from low to high on a log scale; the mean of both channels.
  function spectrogram(buffer, gain) {
    const hop = Math.max(N_FFT / 2, Math.floor(buffer.length / 900)), columns = Math.max(1, Math.ceil(buffer.length / hop));
    const left = buffer.getChannelData(0), right = buffer.getChannelData(Math.min(1, buffer.numberOfChannels - 1));
    const edges = Array.from({ length: ROWS + 1 }, (_, r) => (LOW_HZ * (HIGH_HZ / LOW_HZ) ** (r / ROWS) * N_FFT) / buffer.sampleRate);
    const data = new Float32Array(columns * ROWS), real = new Float32Array(N_FFT), imag = new Float32Array(N_FFT);
    const power = new Float32Array(N_FFT / 2);
    for (let t = 0; t < columns; t++) {
      for (let n = 0; n < N_FFT; n++) { // both channels in one transform, left as the real and right as the imaginary part
        const at = t * hop + n - N_FFT / 2;
        real[n] = (left[at] || 0) * gain * WINDOW[n];
        imag[n] = (right[at] || 0) * gain * WINDOW[n];
      }
      fft(real, imag);
      for (let k = 0; k < N_FFT / 2; k++) {
        const j = (N_FFT - k) % N_FFT; // the mean of |L|² and |R|²
        power[k] = (real[k] ** 2 + imag[k] ** 2 + real[j] ** 2 + imag[j] ** 2) / 4;
      }
      for (let r = 0; r < ROWS; r++) {
        const first = Math.floor(edges[r]), last = Math.max(first + 1, Math.floor(edges[r + 1]));
        let most = 0;
        for (let k = first; k < last; k++) most = Math.max(most, power[k]);
        data[t * ROWS + r] = 10 * Math.log10(most + 1e-9);
      }
    }
    return { data, columns };
  }

  const WINDOW = Float32Array.from({ length: N_FFT }, (_, n) => 0.5 - 0.5 * Math.cos((2 * Math.PI * n) / N_FFT));

  const COS = Float32Array.from({ length: N_FFT / 2 }, (_, k) => Math.cos((2 * Math.PI * k) / N_FFT));
  const SIN = Float32Array.from({ length: N_FFT / 2 }, (_, k) => -Math.sin((2 * Math.PI * k) / N_FFT));

  function fft(real, imag) { // radix 2, in place, of N_FFT values
    const n = real.length;
    for (let i = 1, j = 0; i < n; i++) {
      let bit = n >> 1;
      for (; j & bit; bit >>= 1) j ^= bit;
      j ^= bit;
      if (i < j) { [real[i], real[j]] = [real[j], real[i]]; [imag[i], imag[j]] = [imag[j], imag[i]]; }
    }
    for (let size = 2; size <= n; size *= 2) {
      const half = size / 2, step = n / size;
      for (let k = 0; k < half; k++) {
        const c = COS[k * step], s = SIN[k * step];
        for (let i = k; i < n; i += size) {
          const a = real[i + half] * c - imag[i + half] * s, b = real[i + half] * s + imag[i + half] * c;
          real[i + half] = real[i] - a; imag[i + half] = imag[i] - b;
          real[i] += a; imag[i] += b;
        }
      }
    }
  }

  function paint(canvas, level, top) {
    canvas.width = level.columns;
    const pen = canvas.getContext("2d"), image = pen.createImageData(level.columns, ROWS);
    for (let t = 0; t < level.columns; t++) {
      for (let r = 0; r < ROWS; r++) {
        const share = Math.min(1, Math.max(0, 1 + (level.data[t * ROWS + r] - top) / RANGE_DB)) * (COLOURS.length - 1);
        const i = Math.min(COLOURS.length - 2, Math.floor(share)), part = share - i, at = 4 * ((ROWS - 1 - r) * level.columns + t);
        for (let c = 0; c < 3; c++) image.data[at + c] = COLOURS[i][c] + part * (COLOURS[i + 1][c] - COLOURS[i][c]);
        image.data[at + 3] = 255;
      }
    }
    pen.putImageData(image, 0, 0);
  }

  if (!root) return;
  const players = items.map((item, i) => new Player(item, i));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) players.find((p) => p.node === entry.target).picture();
  }, { rootMargin: "300px" });
  for (const player of players) {
    root.querySelector(`[data-target="${CSS.escape(player.item.target)}"]`).append(player.node);
    seen.observe(player.node);
  }
  matched.addEventListener("change", () => playing && playing.levels());
  Object.assign(window, { reportPlayers: players, reportSpectrogram: spectrogram }); // for tests
})();
