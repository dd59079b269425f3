"use strict";
// A song goes up, its stems come back; all play from one clock, each through its own gain.
(() => {
  const $ = (id) => document.getElementById(id);
  const FADE = 0.015; // seconds; long enough not to click
  const POLL = 400; // milliseconds
  const RATE = 48000; // of decoded audio, whatever the file's
  const MAX_BYTES = 1.5e9; // decoded stems beyond that do not fit a browser's tab
  const make = (tag, properties = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };
  const clock = (s) => `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`;
  let file = null, song = null, maxMb = 0, keepMs = 60000, upload = null, mixer = null, alive = 0;

  const problem = (text) => { $("problem").textContent = text; $("problem").hidden = !text; };
  const ask = async (url, options) => {
    let response;
    try { response = await fetch(url, options); } catch { throw new Error("The server does not answer. Is it still running?"); }
    const value = await response.json();
    if (!response.ok) throw new Error(value.problem);
    return value;
  };
  const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

  // --- what to separate -------------------------------------------------------------------------------------------

  const chosen = () => [...document.querySelectorAll("#heads input:checked")].map((box) => box.value);
  const ready = () => { $("go").disabled = !file || !chosen().length || !$("work").hidden; };

  const showHeads = (state) => {
    const off = new Set([...document.querySelectorAll("#heads input:not(:checked)")].map((box) => box.value));
    $("heads").replaceChildren(...state.heads.map((name) => {
      const box = make("input", { type: "checkbox", value: name, checked: !off.has(name) });
      box.addEventListener("change", ready);
      return make("label", { className: "chip" }, box, name);
    }));
    ready();
  };

  const choose = (chosenFile) => {
    problem("");
    if (!chosenFile) return;
    if (chosenFile.size > maxMb * 1e6) {
      return problem(`${chosenFile.name} has ${(chosenFile.size / 1e6).toFixed(1)} MB; expected at most ${maxMb} MB.`);
    }
    file = chosenFile;
    $("file-name").textContent = file.name;
    ready();
  };

  $("file").addEventListener("change", () => choose($("file").files[0]));
  for (const kind of ["dragover", "dragenter", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault(); // a song beside the field must not replace the page
      $("drop").classList.toggle("over", kind === "dragover" || kind === "dragenter");
      if (kind === "drop") choose(event.dataTransfer.files[0]);
    });
  }

  $("head-file").addEventListener("change", async () => {
    const head = $("head-file").files[0];
    if (!head) return;
    problem("");
    $("adding").textContent = `Adding ${head.name}. A song that is being separated comes first.`;
    try {
      showHeads(await ask(`/heads?name=${encodeURIComponent(head.name)}`, { method: "POST", body: head }));
    } catch (error) {
      problem(error.message);
    }
    $("adding").textContent = $("head-file").value = "";
  });

  // --- the work ---------------------------------------------------------------------------------------------------

  const send = (query) => new Promise((done, failed) => {
    upload = new XMLHttpRequest(); // fetch does not tell how far an upload is
    upload.open("POST", `/songs?${query}`);
    upload.upload.onprogress = (event) => stage(`Sending ${Math.round((100 * event.loaded) / event.total)} %`, event.loaded / event.total);
    upload.onerror = () => failed(new Error("The upload was broken off."));
    upload.onabort = () => failed(new Error("Cancelled."));
    upload.onload = () => {
      const value = JSON.parse(upload.responseText);
      if (upload.status < 300) done(value); else failed(new Error(value.problem));
    };
    upload.send(file);
  });

  const stage = (text, share) => {
    if ($("stage").textContent !== text) $("stage").textContent = text;
    if (share === null) $("bar").removeAttribute("value"); else $("bar").value = share;
  };

  const forget = () => {
    clearInterval(alive);
    if (mixer) mixer.close();
    mixer = null;
    $("mixer").hidden = true;
    if (song) ask(`/songs/${song.id}`, { method: "DELETE" }).catch(() => {});
    song = null;
  };

  $("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    forget();
    problem("");
    $("work").hidden = false;
    ready();
    $("work").scrollIntoView({ block: "nearest" });
    try {
      const query = new URLSearchParams({ name: file.name, heads: chosen().join(",") });
      if ($("residual").checked) query.set("residual", "1");
      song = await send(query);
      const id = song.id;
      while (song && song.id === id && (song.state === "waiting" || song.state === "working")) {
        await sleep(POLL);
        const facts = song && await ask(`/songs/${id}`).catch((error) => { if (song) throw error; });
        if (!song) throw new Error("Cancelled."); // meanwhile
        song = facts;
        const left = facts.seconds_left === undefined ? "" : `, ${clock(facts.seconds_left)} left`;
        if (facts.state === "waiting") stage(`Waiting: ${facts.ahead} before this one`, null);
        else stage(`Separating ${Math.round(100 * facts.share)} %${left}`, facts.share);
      }
      if (song.state === "failed") throw new Error(song.problem);
      mixer = new Mixer(song);
      alive = setInterval(() => song && ask(`/songs/${song.id}`).catch((error) => problem(error.message)), keepMs);
    } catch (error) {
      problem(error.message);
    }
    $("work").hidden = true;
    ready();
  });

  $("cancel").addEventListener("click", () => {
    if (upload && upload.readyState !== 4) upload.abort();
    forget();
  });
  $("forget").addEventListener("click", () => { forget(); $("file").focus(); });
  window.addEventListener("pagehide", () => { if (song) navigator.sendBeacon(`/songs/${song.id}/drop`); });

  // --- the mixer --------------------------------------------------------------------------------------------------

  class Mixer {
    constructor(facts) {
      this.facts = facts;
      this.offset = 0;
      this.started = null;
      this.duration = facts.seconds;
      $("track").textContent = facts.track;
      $("note").hidden = !facts.level_db;
      $("note").textContent = `All stems are ${facts.level_db.toFixed(2)} dB lower, so that none clips.`;
      $("all").href = `/songs/${facts.id}/all.zip`;
      $("all").download = `${facts.track}.zip`;
      $("play").disabled = $("position").disabled = true;
      $("play").textContent = "Play";
      $("position").max = this.duration;
      $("mixer").hidden = false;
      this.whole = facts.seconds * RATE * facts.channels * 4 * facts.stems.length > MAX_BYTES;
      this.stems = facts.stems.map((stem) => ({ ...stem, url: `/songs/${facts.id}/${encodeURIComponent(stem.file)}`, volume: 1, muted: false, solo: false }));
      $("stems").replaceChildren(...this.stems.map((stem) => this.row(stem)));
      this.show();
      if (!this.whole) this.load();
      $("mixer").scrollIntoView({ block: "nearest" });
    }

    row(stem) {
      const link = make("a", { href: stem.url, download: `${this.facts.track} - ${stem.file}`, textContent: "Download" });
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
          if (!response.ok) throw new Error((await response.json()).problem);
          stem.buffer = await this.context.decodeAudioData(await response.arrayBuffer());
          this.draw(stem);
        }));
      } catch (error) {
        if (mixer === this) problem(`${error.message} The stems can be downloaded all the same.`);
        return;
      }
      if (mixer !== this) return;
      this.duration = Math.max(...this.stems.map((stem) => stem.buffer.duration));
      $("position").max = this.duration;
      $("play").disabled = $("position").disabled = false;
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
      if ($("play").disabled) return;
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
      $("play").textContent = "Pause";
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
      $("play").textContent = "Play";
      this.show();
    }

    seek(seconds) {
      if ($("position").disabled) return;
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
      $("position").value = now;
      $("position").setAttribute("aria-valuetext", `${clock(now)} of ${clock(this.duration)}`);
      $("time").textContent = `${clock(now)} of ${clock(this.duration)}`;
      for (const stem of this.stems) if (stem.head) stem.head.style.left = `${(100 * now) / this.duration}%`;
    }

    key(event) {
      const typing = event.target.matches("button, a, input, audio");
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

    close() {
      this.started = null;
      this.silence();
      if (this.context) this.context.close();
    }
  }

  $("play").addEventListener("click", () => mixer && mixer.toggle());
  $("position").addEventListener("input", () => mixer && mixer.seek(Number($("position").value)));
  document.addEventListener("keydown", (event) => mixer && mixer.key(event));
  window.app = { get mixer() { return mixer; } };

  ask("/state").then((state) => {
    maxMb = state.max_mb;
    keepMs = Math.min(keepMs, (1000 * state.keep_seconds) / 3); // a song that is shown is asked for in time
    $("model").textContent = state.model;
    $("limit").textContent = `Whatever FFmpeg reads, up to ${maxMb} MB. Rate, channels and length stay as they are.`;
    showHeads(state);
  }).catch((error) => problem(error.message));
})();
