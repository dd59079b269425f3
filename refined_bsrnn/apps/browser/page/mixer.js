// Stems that play from one clock, each through its own gain. Gradio runs this once, when the component is there, and
// gives: `element`, its HTML; `props.value`, what `facts` in app.py says of a song, or null; `watch`; `server`.
const at = (name) => element.querySelector(`.${name}`);
const FADE = 0.015; // seconds; long enough not to click
const RATE = 48000; // of decoded audio, whatever the file's
const MAX_BYTES = 1.5e9; // decoded stems beyond that do not fit a browser's tab
const make = (tag, properties = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
};
const clock = (s) => `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`;
const place = (path) => new URL("gradio_api/file=" + path.split("/").map(encodeURIComponent).join("/"), document.baseURI).href;
const problem = (text) => { at("problem").textContent = text; at("problem").hidden = !text; };
let mixer = null;

class Mixer {
  constructor(facts) {
    this.facts = facts;
    this.offset = 0;
    this.started = null;
    this.duration = facts.seconds;
    at("track").textContent = facts.track;
    at("note").hidden = !facts.level_db;
    at("note").textContent = `All stems are ${facts.level_db.toFixed(2)} dB lower, so that none clips.`;
    at("play").disabled = at("position").disabled = true;
    at("play").textContent = "Play";
    at("position").max = this.duration;
    this.whole = facts.seconds * RATE * facts.channels * 4 * facts.stems.length > MAX_BYTES;
    at("transport").hidden = at("keys").hidden = this.whole;
    this.stems = facts.stems.map((stem) => ({ ...stem, url: place(stem.path), volume: 1, muted: false, solo: false }));
    at("stems").replaceChildren(...this.stems.map((stem) => this.row(stem)));
    this.show();
    if (!this.whole) this.load();
    at("mixer").scrollIntoView({ block: "nearest" });
  }

  row(stem) {
    const link = make("a", { href: stem.url, download: "", textContent: "Download" });
    link.setAttribute("aria-label", `Download ${stem.name}`);
    const title = make("div", {}, make("h3", { textContent: stem.name }), link);
    if (this.whole) { // too long to be held decoded: one player each
      stem.node = make("div", { className: "stem" }, title, make("audio", { controls: true, preload: "none", src: stem.url }));
      return stem.node;
    }
    stem.canvas = make("canvas", { width: 1000, height: 128 });
    stem.canvas.setAttribute("role", "img");
    stem.canvas.setAttribute("aria-label", `Waveform of ${stem.name}`);
    stem.head = make("i");
    const view = make("div", { className: "view" }, stem.canvas, stem.head);
    view.addEventListener("click", (event) => {
      const box = view.getBoundingClientRect();
      this.seek(((event.clientX - box.left) / box.width) * this.duration);
    });
    stem.mute = this.button("Mute", stem, () => { stem.muted = !stem.muted; });
    stem.alone = this.button("Solo", stem, () => { stem.solo = !stem.solo; });
    const volume = make("input", { type: "range", min: 0, max: 1.5, step: 0.01, value: 1 });
    volume.setAttribute("aria-label", `Volume of ${stem.name}`);
    volume.addEventListener("input", () => { stem.volume = Number(volume.value); this.levels(); });
    stem.node = make("div", { className: "stem" }, title, view, make("div", { className: "knobs" }, stem.mute, stem.alone, volume));
    stem.node.setAttribute("role", "group");
    stem.node.setAttribute("aria-label", stem.name);
    return stem.node;
  }

  button(text, stem, change) {
    const node = make("button", { type: "button", textContent: text });
    node.setAttribute("aria-label", `${text} ${stem.name}`);
    node.setAttribute("aria-pressed", "false");
    node.addEventListener("click", () => { change(); this.levels(); });
    return node;
  }

  async load() {
    this.context = new AudioContext();
    try {
      await Promise.all(this.stems.map(async (stem) => {
        const response = await fetch(stem.url);
        if (!response.ok) throw new Error("A stem is not on the server any more.");
        stem.buffer = await this.context.decodeAudioData(await response.arrayBuffer());
        this.draw(stem);
      }));
    } catch (error) {
      if (mixer === this) problem(`${error.message} The stems can be downloaded all the same.`);
      return;
    }
    if (mixer !== this) return;
    this.duration = Math.max(...this.stems.map((stem) => stem.buffer.duration));
    at("position").max = this.duration;
    at("play").disabled = at("position").disabled = false;
  }

  draw(stem) {
    const { width, height } = stem.canvas, pen = stem.canvas.getContext("2d");
    pen.fillStyle = getComputedStyle(stem.canvas).color;
    const samples = Array.from({ length: stem.buffer.numberOfChannels }, (_, c) => stem.buffer.getChannelData(c));
    const step = stem.buffer.length / width;
    for (let x = 0; x < width; x++) {
      let peak = 0;
      for (const channel of samples) {
        for (let i = Math.floor(x * step); i < (x + 1) * step && i < channel.length; i++) peak = Math.max(peak, Math.abs(channel[i]));
      }
      const tall = Math.max(1, Math.min(1, Math.sqrt(peak)) * height); // quiet parts are to be seen, too
      pen.fillRect(x, (height - tall) / 2, 1, tall);
    }
  }

  level(stem) {
    const solos = this.stems.some((other) => other.solo);
    return stem.muted || (solos && !stem.solo) ? 0 : stem.volume;
  }

  levels() {
    for (const stem of this.stems) {
      stem.mute.setAttribute("aria-pressed", stem.muted);
      stem.alone.setAttribute("aria-pressed", stem.solo);
      stem.node.classList.toggle("silent", this.level(stem) === 0);
      if (stem.gain) stem.gain.gain.setTargetAtTime(this.level(stem), this.context.currentTime, FADE / 3);
    }
  }

  position() {
    if (this.started === null) return this.offset;
    return Math.min(this.duration, this.offset + Math.max(0, this.context.currentTime - this.started));
  }

  async toggle() {
    if (at("play").disabled) return;
    if (this.started !== null) return this.pause();
    await this.context.resume();
    if (this.offset >= this.duration) this.offset = 0;
    this.start();
  }

  start() {
    const when = this.context.currentTime + 0.03; // one moment for all
    for (const stem of this.stems) {
      stem.gain = new GainNode(this.context, { gain: this.level(stem) });
      stem.node_ = new AudioBufferSourceNode(this.context, { buffer: stem.buffer });
      stem.node_.connect(stem.gain).connect(this.context.destination);
      stem.node_.start(when, this.offset);
    }
    this.started = when;
    at("play").textContent = "Pause";
    this.tick();
  }

  silence() {
    for (const stem of this.stems) {
      if (stem.gain) { stem.node_.stop(); stem.gain.disconnect(); }
      stem.gain = null;
    }
  }

  pause() {
    this.offset = this.position();
    this.started = null;
    this.silence();
    at("play").textContent = "Play";
    this.show();
  }

  seek(seconds) {
    if (at("position").disabled) return;
    const playing = this.started !== null;
    if (playing) { this.silence(); this.started = null; }
    this.offset = Math.min(Math.max(0, seconds), this.duration);
    if (playing) this.start();
    this.show();
  }

  tick() {
    if (this.started === null) return;
    this.show();
    if (this.position() >= this.duration) return this.pause();
    requestAnimationFrame(() => this.tick());
  }

  show() {
    const now = this.position();
    at("position").value = now;
    at("position").setAttribute("aria-valuetext", `${clock(now)} of ${clock(this.duration)}`);
    at("time").textContent = `${clock(now)} of ${clock(this.duration)}`;
    for (const stem of this.stems) if (stem.head) stem.head.style.left = `${(100 * now) / this.duration}%`;
  }

  key(event) {
    const typing = event.target.matches("button, a, input, textarea, audio");
    const digit = /^Digit([1-9])$/.exec(event.code);
    if (event.ctrlKey || event.metaKey || event.altKey || this.whole) return;
    if (event.key === " " && !typing) this.toggle();
    else if (event.key === "ArrowLeft" && !event.target.matches("input")) this.seek(this.position() - 5);
    else if (event.key === "ArrowRight" && !event.target.matches("input")) this.seek(this.position() + 5);
    else if (digit && this.stems[digit[1] - 1]) {
      const stem = this.stems[digit[1] - 1];
      if (event.shiftKey) stem.solo = !stem.solo; else stem.muted = !stem.muted;
      this.levels();
    } else return;
    event.preventDefault();
  }

  async all() {
    at("all").disabled = true;
    const { path, problem: text } = await server.archive_of(this.facts.key).catch(() => ({ problem: "The server does not answer." }));
    at("all").disabled = false;
    if (mixer !== this) return;
    problem(text || "");
    if (path) make("a", { href: place(path), download: path.split("/").pop() }).click();
  }

  close() {
    this.started = null;
    this.silence();
    if (this.context) this.context.close();
    this.context = null;
  }
}

const show = () => {
  if (mixer) mixer.close();
  problem("");
  at("mixer").hidden = !props.value;
  mixer = props.value ? new Mixer(props.value) : null;
  window.mixer = mixer;
};

at("play").addEventListener("click", () => mixer && mixer.toggle());
at("position").addEventListener("input", () => mixer && mixer.seek(Number(at("position").value)));
at("all").addEventListener("click", () => mixer && mixer.all());
document.addEventListener("keydown", (event) => mixer && mixer.key(event));
watch("value", show);
show();
