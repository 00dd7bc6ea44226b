"use strict";
// The page of the server: which photograph is captioned, with which options, and the answer.

const defaults = JSON.parse(document.getElementById("data").textContent);
const NO_ANSWER = "The server does not answer. Is it still running?";
const $ = (id) => document.getElementById(id);

class CaptionPage {
  constructor() {
    Object.assign(this, { form: $("options"), photograph: null, asked: null, attentions: "" });
    this.setDefaults();
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.addEventListener("change", ({ target }) => this.optionChanged(target));
    $("file").addEventListener("change", ({ target }) => { this.take(target.files[0]); target.value = ""; });
    document.addEventListener("paste", ({ clipboardData }) => this.take(clipboardData.files[0]));
    document.querySelectorAll(".sample").forEach((button) => button.addEventListener("click", () => this.takeSample(button)));
    this.acceptDrops();
    const first = document.querySelector(".sample");
    if (first) this.takeSample(first);
  }

  get run() {
    return this.form.elements.run?.value ?? Object.keys(defaults)[0];
  }

  setDefaults() {
    for (const [name, value] of Object.entries(defaults[this.run])) this.form.elements[name].value = value;
  }

  optionChanged(target) {
    if (target.name === "run") this.setDefaults();
    if (this.form.reportValidity()) this.caption();
  }

  acceptDrops() {
    const dragging = (event, on) => { event.preventDefault(); document.body.classList.toggle("dragging", on); };
    document.addEventListener("dragover", (event) => dragging(event, true));
    document.addEventListener("dragleave", (event) => dragging(event, !!event.relatedTarget));
    document.addEventListener("drop", (event) => { dragging(event, false); this.take(event.dataTransfer.files[0]); });
  }

  take(file, sample = null) {
    if (!file) return;
    this.sample = sample;
    document.querySelectorAll(".sample").forEach((button) => button.setAttribute("aria-pressed", button === sample));
    this.photograph = { file, name: sample?.dataset.name ?? file.name };
    this.caption();
  }

  async takeSample(button) {
    this.sample = button;
    const answer = await fetch(`/samples/${button.dataset.number}`).catch(() => null);
    const picture = answer?.ok && (await answer.blob());
    if (this.sample !== button) return; // another one was chosen meanwhile
    if (picture) this.take(picture, button);
    else this.fail(NO_ANSWER);
  }

  fields() {
    const { beam, min_words, max_words, forced, forbidden } = this.form.elements;
    const words = (input) => input.value.split(/[\s,]+/).filter(Boolean);
    const data = new FormData();
    data.append("image", this.photograph.file, "photograph");
    data.append("run", this.run);
    for (const input of [beam, min_words, max_words]) data.append(input.name, input.value);
    for (const word of words(forced)) data.append("forced", word.replaceAll("/", ","));
    for (const word of words(forbidden)) data.append("forbidden", word);
    return data;
  }

  async caption() {
    if (!this.photograph) return;
    this.asked?.abort();
    const asked = (this.asked = new AbortController());
    const started = performance.now();
    $("photographs").setAttribute("aria-busy", "true");
    $("status").textContent = "Captioning …";
    try {
      const answer = await fetch("/v1/caption", { method: "POST", body: this.fields(), signal: asked.signal });
      const found = await answer.json().catch(() => ({ error: `The answer has status ${answer.status}.` }));
      if (answer.ok) this.show(found, (performance.now() - started) / 1000);
      else this.fail(found.error);
    } catch (error) {
      if (error.name !== "AbortError") this.fail(NO_ANSWER);
    }
    if (asked === this.asked) $("photographs").removeAttribute("aria-busy");
  }

  fail(line) {
    $("problem").textContent = line;
    $("problem").hidden = false;
    $("status").textContent = "";
  }

  show(found, seconds) {
    $("problem").hidden = true;
    const image = asImage(this.photograph.name, found);
    this.showSwitches(image);
    if (this.url) URL.revokeObjectURL(this.url);
    this.url = URL.createObjectURL(this.photograph.file);
    this.card = new PhotographCard(image, found, this.url);
    $("photographs").replaceChildren(this.card.root);
    $("status").textContent = `${this.photograph.name}: ${found.width} × ${found.height} pixels, captioned in ${seconds.toFixed(2)} s`;
  }

  /** The switches stay as they are until a model has other attentions. */
  showSwitches(image) {
    const attentions = Object.keys(image.captions[0].maps).join();
    if (attentions === this.attentions) return;
    this.attentions = attentions;
    shown.clear();
    $("switches").replaceChildren();
    makeSwitches($("switches"), [image], () => this.card.view.refresh());
  }
}

const captionPage = new CaptionPage();
