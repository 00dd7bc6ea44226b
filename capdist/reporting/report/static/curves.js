"use strict";
// Learning curves: all runs in one plot for each number of the metrics log.

const TITLES = {
  loss: "Training loss", val_cider: "Validation CIDEr", reward: "Reward", captions_per_s: "Captions/s",
  lr: "Learning rate", grad_norm: "Norm of the gradient", step_s: "Seconds per step",
};
const FIRST = ["loss", "val_cider", "reward", "captions_per_s"];
const SMOOTHED = new Set(["loss", "reward", "captions_per_s", "grad_norm"]);
const DECAY = 0.97;

/** The exponential moving average with bias correction. */
function smooth(values) {
  let [average, weight] = [0, 0];
  return values.map((value) => {
    if (value === null) return null;
    average = DECAY * average + (1 - DECAY) * value;
    weight = DECAY * weight + (1 - DECAY);
    return average / weight;
  });
}

class Curves {
  constructor(data) {
    this.data = data;
    this.plots = [];
    const names = [...new Set(data.curves.flatMap((curves) => curves.map((curve) => curve.name)))];
    const first = FIRST.filter((name) => names.includes(name));
    this.draw(document.getElementById("curves"), first);
    const more = document.getElementById("more-curves");
    const rest = names.filter((name) => !first.includes(name));
    more.hidden = !rest.length;
    more.addEventListener("toggle", () => more.lastElementChild.children.length || this.draw(more.lastElementChild, rest));
    addEventListener("resize", () => this.plots.forEach(({ plot, box }) => plot.setSize({ width: box.clientWidth, height: 240 })));
  }

  draw(parent, names) {
    const boxes = names.map((name) => {
      const [box, title] = [element("div", {}), TITLES[name] ?? name];
      parent.append(element("div", { class: "plot", role: "group", "aria-label": title }, element("h3", {}, title), box));
      return box;
    });
    // Their width is known only when all of them share the row.
    names.forEach((name, i) => this.plots.push({ name, box: boxes[i], plot: this.plot(name, boxes[i]) }));
  }

  series(name) {
    const found = [];
    this.data.curves.forEach((curves, run) => {
      const curve = curves.find((each) => each.name === name);
      if (!curve) return;
      const of = this.data.runs.length > 1 ? this.data.runs[run] : name;
      const smoothed = SMOOTHED.has(name) && curve.steps.length > 20;
      found.push({ run, label: smoothed ? `${of}, each step` : of, faint: smoothed, table: [curve.steps, curve.values] });
      if (smoothed) found.push({ run, label: of, table: [curve.steps, smooth(curve.values)] });
    });
    return found;
  }

  plot(name, box) {
    const style = getComputedStyle(document.documentElement);
    const colour = (variable) => style.getPropertyValue(variable).trim();
    const found = this.series(name);
    const number = (_, value) => (value === null || value === undefined ? "–" : Number(value.toPrecision(4)).toString());
    const axis = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 } };
    const points = found.some((each) => each.table[0].length < 60);
    return new uPlot(
      {
        width: box.clientWidth || 400, height: 240, scales: { x: { time: false } },
        cursor: { sync: { key: "step" }, drag: { x: true, y: false } },
        axes: [{ ...axis, label: "step", labelSize: 20 }, { ...axis, size: 60 }],
        series: [
          { label: "step", value: number },
          ...found.map(({ run, label, faint }) => ({
            label, value: number, spanGaps: true, points: { show: points && !faint },
            stroke: colour(`--run-${run % 6}`) + (faint ? "55" : ""), width: faint ? 1 : 1.8,
          })),
        ],
      },
      uPlot.join(found.map((each) => each.table)),
      box,
    );
  }

  /** Draw again, in the colours of the theme. */
  repaint() {
    for (const each of this.plots) {
      each.plot.destroy();
      each.plot = this.plot(each.name, each.box);
    }
  }
}
