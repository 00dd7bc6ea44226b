"use strict";
// A photograph and what a model says about it, shown as an image of the gallery is.

/** As an image of the gallery. found: what POST /v1/caption answers, with width and height. */
function asImage(name, found) {
  const maps = Object.fromEntries(Object.entries(found.attention).map(([key, values]) => [key, { rows: values.length, values }]));
  const boxes = found.boxes.map((box) => box.map((share) => 1000 * share));
  const caption = { words: found.words, cider: null, unmatched: [], boxes, labels: [], concepts: found.concepts, maps };
  return { image_id: name, width: found.width, height: found.height, references: [name], captions: [caption] };
}

class PhotographCard {
  /** image: of `asImage`; found: as there; picture: a URL. */
  constructor(image, found, picture) {
    this.view = new ImageView(image, picture, [""]);
    this.root = element("article", { class: "card wide photograph", "aria-label": image.image_id });
    const beams = [{ words: [found.caption], score: found.score }, ...found.alternatives.map((other) => ({ words: [other.caption], score: other.score }))];
    const { lines, concepts, readout, stage } = this.view;
    stage.style.setProperty("--ratio", found.width / found.height);
    stage.querySelector("img").addEventListener("error", ({ target }) => {
      target.remove();
      stage.classList.add("bare");
      lines[0].before(element("p", { class: "note" }, "The browser can't show pictures of this format."));
    });
    const hint = "Hover over a word, tap it, or use the arrow keys: the regions light up that the model looked at before it wrote the word.";
    const help = Object.keys(found.attention).length ? [element("p", { class: "note" }, hint)] : [];
    const ranking = element("div", { class: "alternatives" }, element("h2", {}, "Alternatives"), alternatives(beams));
    this.root.append(stage, element("div", { class: "body" }, ...lines, readout, concepts, ...help, ranking));
  }
}
