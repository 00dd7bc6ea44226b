"use strict";
// The gallery: which images are shown, in which order, as cards that are made when they are near.

const PAGE = 24;

class GalleryPage {
  constructor(data, pictures) {
    this.runs = data.runs;
    this.images = data.gallery.images;
    this.pictures = pictures;
    this.failure = null;
    this.views = [];
    this.cards = document.getElementById("cards");
    this.more = document.getElementById("more");
    this.texts = this.images.map((image) => this.searchText(image));
    makeSwitches(document.getElementById("switches"), this.images, () => this.views.forEach((view) => view.refresh()));
    const controls = document.getElementById("controls");
    for (const kind of ["input", "change"]) controls.addEventListener(kind, () => this.update());
    controls.addEventListener("submit", (event) => event.preventDefault());
    this.more.addEventListener("click", () => this.append());
    new IntersectionObserver((entries) => entries.some((e) => e.isIntersecting) && this.append(), { rootMargin: "800px" }).observe(this.more);
    document.querySelectorAll(".failures .chip").forEach((chip) => chip.addEventListener("click", () => this.filterFailure(chip)));
    this.cards.addEventListener("keydown", (event) => this.moveBetween(event));
    this.update();
  }

  searchText(image) {
    const captions = image.captions.filter(Boolean).map((caption) => caption.words.join(" "));
    return [image.image_id, ...captions, ...image.references].join("\n").toLowerCase();
  }

  value(id, other = "") {
    return document.getElementById(id)?.value ?? other;
  }

  filterFailure(chip) {
    const { run, kind, word } = chip.dataset;
    const same = chip.getAttribute("aria-pressed") === "true";
    document.querySelectorAll(".failures .chip").forEach((each) => each.setAttribute("aria-pressed", !same && each === chip));
    this.failure = same ? null : { run: Number(run), kind, word };
    this.update();
    if (!same) document.getElementById("gallery").scrollIntoView();
  }

  matches(index) {
    const caption = this.images[index].captions[this.run];
    const length = caption?.words.length ?? 0;
    const { failure } = this;
    return (
      this.query.every((word) => this.texts[index].includes(word)) &&
      this.words.every((word) => caption?.words.includes(word)) &&
      length >= this.shortest && length <= this.longest &&
      (!failure || (this.images[index].captions[failure.run]?.[failure.kind] ?? []).includes(failure.word))
    );
  }

  sortKey(index) {
    const image = this.images[index];
    const cider = (run) => image.captions[run]?.cider ?? null;
    const length = image.captions[this.run]?.words.length ?? 0;
    const change = () => (cider(this.run) === null || cider(this.other) === null ? -1 : Math.abs(cider(this.run) - cider(this.other)));
    switch (this.value("sort")) {
      case "worst": return cider(this.run) ?? Infinity;
      case "best": return -(cider(this.run) ?? -Infinity);
      case "changed": return -change();
      case "long": return -length;
      case "short": return length;
      default: return index;
    }
  }

  update() {
    const split = (text) => text.toLowerCase().split(/\s+/).filter(Boolean);
    this.run = Number(this.value("run", 0));
    this.other = Number(this.value("other", 0));
    if (this.runs.length > 1 && this.other === this.run) {
      this.other = this.run ? 0 : 1;
      document.getElementById("other").value = this.other;
    }
    this.query = split(this.value("search"));
    this.words = split(this.value("words"));
    this.shortest = Number(this.value("shortest") || 0);
    this.longest = Number(this.value("longest") || Infinity);
    const found = this.images.map((_, index) => index).filter((index) => this.matches(index));
    const keys = new Map(found.map((index) => [index, this.sortKey(index)]));
    this.found = found.sort((a, b) => (keys.get(a) < keys.get(b) ? -1 : keys.get(a) > keys.get(b) ? 1 : a - b));
    document.getElementById("count").textContent = `${found.length} of ${this.images.length} images`;
    this.cards.replaceChildren();
    this.views = [];
    this.append();
  }

  append() {
    const start = this.views.length;
    for (const index of this.found.slice(start, start + PAGE)) this.cards.append(this.makeCard(index));
    this.more.hidden = this.views.length >= this.found.length;
  }

  makeCard(index) {
    const image = this.images[index];
    const view = new ImageView(image, this.pictures[index], this.runs);
    this.views.push(view);
    const card = element("article", { class: "card", "aria-label": `Image ${image.image_id}` });
    card.dataset.image = image.image_id;
    const grip = element("button", { type: "button", class: "quiet grip", "aria-expanded": "false" }, "Enlarge");
    grip.addEventListener("click", () => {
      const wide = card.classList.toggle("wide");
      grip.setAttribute("aria-expanded", wide);
      grip.textContent = wide ? "Reduce" : "Enlarge";
      card.scrollIntoView({ block: "nearest" });
    });
    view.stage.append(grip);
    const details = element("details", {}, element("summary", {}, `References, alternatives, n-grams · image ${image.image_id}`));
    details.addEventListener("toggle", () => details.children.length === 1 && details.append(...this.details(image)));
    card.append(view.stage, element("div", { class: "body" }, ...view.lines.filter(Boolean), view.concepts, view.readout, details));
    return card;
  }

  details(image) {
    const list = (items) => element("ul", {}, ...items.map((item) => element("li", {}, item)));
    const made = [element("h4", {}, "References"), list(image.references)];
    image.captions.forEach((caption, run) => {
      if (!caption) return;
      const title = (name) => (this.runs.length > 1 ? `${this.runs[run]}: ${name}` : name[0].toUpperCase() + name.slice(1));
      const wrong = [...caption.missing.map((w) => `missed ${w}`), ...caption.invented.map((w) => `invented ${w}`)];
      if (wrong.length) made.push(element("p", { class: "wrong" }, title(wrong.join(", "))));
      if (caption.beams.length)
        made.push(element("h4", {}, title("alternatives")), alternatives(caption.beams));
      made.push(element("h4", {}, title("n-grams shared with references")), table(["n-gram", "references", "weight"], caption.ngrams.map((n) => [n.text, `${n.references} of ${image.references.length}`, n.weight.toFixed(2)])));
    });
    return made;
  }

  /** Arrows up and down: the caption above or below, in reading order. */
  moveBetween(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step || !event.target.classList.contains("word")) return;
    event.preventDefault();
    const lines = [...this.cards.querySelectorAll(".words:has(.word)")];
    const to = lines[lines.indexOf(event.target.parentElement) + step];
    (to?.querySelector('.word[tabindex="0"]') ?? event.target).focus();
  }
}
