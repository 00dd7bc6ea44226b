"use strict";
// The view of one image: its picture, captions by word, and what each word attended to.

/** Which attentions are shown, by the part of their names after "/"; all views read it. */
const shown = new Set();
/** The names of all attentions, in order: their index is their colour. */
let stages = [];

/** Weights below this share of the strongest are not drawn. */
const FAINTEST = 0.2;

/** Whether the pointer moved, or the page scrolled under it while keys were used. */
const pointer = { x: -1, y: -1, moved: false };
document.addEventListener("pointermove", ({ screenX: x, screenY: y }) => {
  Object.assign(pointer, { x, y, moved: x !== pointer.x || y !== pointer.y });
}, { capture: true });

const stageOf = (name) => (name.includes("/") ? name.slice(name.indexOf("/") + 1) : "");
const partOf = (name) => name.split("/")[0];
const colour = (stage) => `var(--map-${Math.max(0, stages.indexOf(stage)) % 6})`;

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** The weights of one word: numbers in 0..1, stored as such or as bytes. */
function weights(map, word) {
  if (map.values) return map.values[word];
  map.bytes ??= Uint8Array.from(atob(map.data), (c) => c.charCodeAt(0));
  const row = map.bytes.subarray(word * map.columns, (word + 1) * map.columns);
  return Array.from(row, (byte) => (byte / 255) * map.peak);
}

class ImageView {
  /** image: of the gallery; picture: a data URL or ""; runs: names. */
  constructor(image, picture, runs) {
    Object.assign(this, { image, runs, lit: null });
    this.stage = this.makeStage(picture);
    this.concepts = element("ul", { class: "concepts", "aria-label": "Concepts" });
    this.readout = element("p", { class: "readout", role: "status" });
    this.lines = image.captions.map((caption, run) => caption && this.makeLine(caption, run));
    this.draw(image.captions.findIndex((caption) => caption));
  }

  makeStage(picture) {
    const { width, height } = this.image;
    const stage = element("div", { class: picture ? "stage" : "stage bare" });
    stage.style.aspectRatio = width && height ? `${width} / ${height}` : "4 / 3";
    if (picture) {
      const alt = this.image.references[0] ?? `image ${this.image.image_id}`;
      stage.append(element("img", { src: picture, alt, loading: "lazy", decoding: "async" }));
    }
    this.svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    this.svg.setAttribute("viewBox", "0 0 1000 1000");
    this.svg.setAttribute("preserveAspectRatio", "none");
    this.svg.setAttribute("aria-hidden", "true");
    stage.append(this.svg);
    return stage;
  }

  makeLine(caption, run) {
    const words = caption.words.map((word, index) => {
      const button = element("button", { type: "button", class: "word", tabindex: index ? -1 : 0 }, word);
      button.dataset.word = index;
      if (caption.unmatched.includes(index)) button.classList.add("unmatched");
      button.addEventListener("pointermove", () => pointer.moved && !this.isLit(run, index) && this.light(run, index));
      button.addEventListener("focus", () => this.light(run, index));
      button.addEventListener("click", () => button.focus());
      return button;
    });
    const text = element("p", { class: `words run-${run % 6}`, role: "group", "aria-label": `Caption of ${this.runs[run]}` });
    if (this.runs.length > 1) text.append(element("i", { class: "dot", title: this.runs[run] }));
    if (!words.length) text.append(element("em", {}, "no words"));
    words.forEach((word, index) => text.append(...(index ? [" ", word] : [word])));
    text.addEventListener("keydown", (event) => this.move(event, words));
    text.addEventListener("pointerleave", () => !text.contains(document.activeElement) && this.clear());
    text.addEventListener("focusout", () => this.clear());
    const score = caption.cider === null ? "" : `CIDEr ${caption.cider.toFixed(0)}`;
    const line = element("div", { class: "line" }, text, element("span", { class: "pill" }, score));
    line.words = words;
    return line;
  }

  move(event, words) {
    const at = words.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: words.length - 1 }[event.key];
    if (event.key === "Escape") document.activeElement.blur();
    if (to === undefined || !words[to]) return;
    event.preventDefault();
    words.forEach((word, index) => (word.tabIndex = index === to ? 0 : -1));
    words[to].focus();
  }

  /** Outlines of the boxes, and the concepts, of a run's caption. */
  draw(run) {
    if (run < 0 || this.drawn === run) return;
    this.drawn = run;
    const { boxes, concepts } = this.image.captions[run];
    this.svg.replaceChildren(...boxes.map((box) => this.rect(box, "outline")));
    this.concepts.replaceChildren(...concepts.map((concept) => element("li", {}, concept)));
    this.concepts.hidden = !concepts.length;
  }

  rect([x1, y1, x2, y2], kind) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const [key, value] of Object.entries({ x: x1, y: y1, width: x2 - x1, height: y2 - y1, class: kind }))
      made.setAttribute(key, value);
    return made;
  }

  clear() {
    this.lit = null;
    this.svg.querySelectorAll(".attended").forEach((rect) => rect.remove());
    for (const chip of this.concepts.children) chip.removeAttribute("style");
    for (const line of this.lines) line?.words.forEach((word) => word.classList.remove("lit"));
    this.readout.textContent = "";
  }

  isLit(run, word) {
    return this.lit?.[0] === run && this.lit[1] === word;
  }

  /** Show what a word of a run's caption attended to. */
  light(run, word) {
    this.clear();
    this.draw(run);
    this.lit = [run, word];
    this.lines[run].words[word].classList.add("lit");
    const caption = this.image.captions[run];
    const said = [];
    for (const [name, map] of Object.entries(caption.maps))
      if (shown.has(stageOf(name)) && word < map.rows) said.push(this.lightMap(name, weights(map, word), caption));
    const before = `before “${caption.words[word]}”: `;
    this.readout.textContent = said.length ? before + said.filter(Boolean).join("; ") : "";
  }

  /** Light one attention; returns its strongest weights in words. */
  lightMap(name, values, caption) {
    const peak = Math.max(...values, 1e-9);
    const [part, stage] = [partOf(name), stageOf(name)];
    values.forEach((value, index) => {
      if (value >= FAINTEST * peak) this.mark(part, stage, index, value, value / peak, caption);
    });
    const best = values.map((value, index) => [value, index]).sort((a, b) => b[0] - a[0]).slice(0, 2);
    const region = (index) => `region ${index + 1}${caption.labels[index] ? ` ${caption.labels[index]}` : ""}`;
    const label = (index) => (part === "regions" ? region(index) : `“${caption.concepts[index]}”`);
    const found = best.filter(([value]) => value > 0).map(([value, index]) => `${label(index)} (${(100 * value).toFixed(0)} %)`);
    return found.length ? `${stage ? stage + ": " : ""}${found.join(", ")}` : "";
  }

  mark(part, stage, index, value, relative, caption) {
    if (part === "regions") {
      const rect = this.rect(caption.boxes[index], "attended");
      rect.dataset.region = index;
      rect.dataset.stage = stage;
      rect.dataset.weight = value;
      rect.style.fill = rect.style.stroke = colour(stage);
      rect.style.fillOpacity = (0.4 * relative ** 2).toFixed(3);
      rect.style.strokeOpacity = relative > 0.5 ? (relative ** 2).toFixed(3) : "0";
      rect.style.strokeWidth = relative === 1 ? "3px" : "1.2px";
      this.svg.append(rect);
    } else {
      const chip = this.concepts.children[index];
      chip.dataset.weight = value;
      chip.style.borderColor = colour(stage);
      chip.style.background = `color-mix(in srgb, ${colour(stage)} ${(45 * relative).toFixed(0)}%, transparent)`;
      if (relative > 0.4) chip.style.color = "var(--fg)";
    }
  }

  /** Light the same word again, after the switches changed. */
  refresh() {
    if (this.lit) this.light(...this.lit);
  }
}

/** Buttons in a box, one for each attention of some images; calls refresh when one is used. */
function makeSwitches(box, images, refresh) {
  const names = images.flatMap((image) => image.captions.flatMap((caption) => Object.keys(caption?.maps ?? {})));
  stages = [...new Set(names.map(stageOf))];
  if (stages.length) shown.add(["local", "γ", ""].find((stage) => stages.includes(stage)) ?? stages[0]);
  box.hidden = stages.length < 2;
  for (const stage of stages) {
    const button = element("button", { type: "button", class: "switch", "aria-pressed": shown.has(stage) }, element("i"), stage || "decoder");
    button.style.setProperty("--map", colour(stage));
    button.addEventListener("click", () => {
      if (!shown.delete(stage)) shown.add(stage);
      button.setAttribute("aria-pressed", shown.has(stage));
      refresh();
    });
    box.append(button);
  }
}

/** Captions of a beam and their log-probabilities. */
function alternatives(beams) {
  return table(["caption", "log P"], beams.map((beam) => [beam.words.join(" ") || "no words", beam.score.toFixed(2)]));
}

function table(head, rows) {
  const row = (cells, kind) => element("tr", {}, ...cells.map((cell, i) => element(i || kind === "td" ? kind : "th", i && kind === "th" ? { scope: "col" } : {}, cell)));
  return element("table", {}, element("thead", {}, row(head, "th")), element("tbody", {}, ...rows.map((cells) => row(cells, "td"))));
}
