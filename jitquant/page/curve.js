// SQNR along the network: a point for each op in program order.

class Curve {
  constructor(box, data, choose) {
    this.box = box;
    this.ops = data.ops;
    this.whole = data.figures;
    this.choose = choose;
    this.chosen = 0;
    this.values = this.ops.map((op) => this.ops[op.part_of ?? this.ops.indexOf(op)]);
    box.setAttribute("aria-valuemax", this.ops.length);
    box.addEventListener("pointermove", (event) => this.pointAt(event));
    box.addEventListener("pointerleave", () => hideTip());
    box.addEventListener("click", (event) => this.choose(this.indexAt(event)));
    drawWithWidth(box, () => this.draw());
  }

  select(index) {
    this.chosen = index;
    const op = this.ops[index];
    this.box.setAttribute("aria-valuenow", index + 1);
    this.box.setAttribute("aria-valuetext", `${plain(op.op)} ${op.module}, ${this.inWords(index)}`);
    this.moveMark();
  }

  draw() {
    this.width = this.box.clientWidth;
    this.height = this.box.clientHeight;
    this.left = 44;
    this.right = this.width - 12;
    this.top = 24;
    this.bottom = this.height - 12;
    this.measure();
    const svg = draw("svg", { width: this.width, height: this.height, "aria-hidden": "true" });
    svg.append(...this.bands(), ...this.grid(), ...this.output(), ...this.run(), ...this.points(), ...this.mark());
    this.box.replaceChildren(svg);
    this.moveMark();
  }

  /** Equal values have no SQNR; they are drawn at the upper edge. */
  measure() {
    const known = this.ops.map((op) => op.sqnr).filter((value) => value !== null);
    if (this.whole.sqnr !== null) {
      known.push(this.whole.sqnr);
    }
    const low = Math.min(0, ...known);
    const high = Math.max(10, ...known) * 1.06;
    this.x = (index) => this.left + ((index + 0.5) * (this.right - this.left)) / this.ops.length;
    this.y = (value) => this.bottom - ((value - low) / (high - low)) * (this.bottom - this.top);
    this.range = [low, high];
  }

  bands() {
    const half = (this.right - this.left) / this.ops.length / 2;
    const drawn = [];
    moduleRuns(this.ops).forEach(({ name, from, to }, place) => {
      const x = this.x(from) - half;
      const width = this.x(to) + half - x;
      if (place % 2 === 0) {
        drawn.push(draw("rect", { class: "band", x, y: this.top - 20, width, height: this.bottom - this.top + 20 }));
      }
      const words = [name, name.split(".").at(-1)].find((word) => word.length * 6.6 < width - 4);
      if (words) {
        drawn.push(draw("text", { x: x + 4, y: this.top - 8 }, words));
      }
    });
    return drawn;
  }

  grid() {
    const drawn = ticks(...this.range, 5).flatMap((value) => [
      draw("line", { class: "gridline", x1: this.left, x2: this.right, y1: this.y(value), y2: this.y(value) }),
      draw("text", { x: this.left - 8, y: this.y(value) + 4, "text-anchor": "end" }, tickWords(value)),
    ]);
    drawn.push(draw("text", { x: this.left - 8, y: this.top - 8, "text-anchor": "end" }, "dB"));
    return drawn;
  }

  output() {
    if (this.whole.sqnr === null) {
      return [];
    }
    const y = this.y(this.whole.sqnr);
    const words = `output ${decibels(this.whole)}`;
    return [
      draw("line", { class: "whole", x1: this.left, x2: this.right, y1: y, y2: y }),
      draw("text", { class: "whole-word", x: this.left + 6, y: y + 16 }, words),
    ];
  }

  run() {
    const path = this.ops
      .map((op, index) => (op.sqnr === null ? null : `${this.x(index).toFixed(1)},${this.y(op.sqnr).toFixed(1)}`))
      .filter((point) => point !== null);
    return path.length ? [draw("polyline", { class: "run", points: path.join(" ") })] : [];
  }

  heightOf(op) {
    if (op.equal) {
      return this.top;
    }
    return op.sqnr === null ? this.bottom : this.y(op.sqnr);
  }

  points() {
    const size = Math.max(2, Math.min(4.5, (this.right - this.left) / this.ops.length / 2.2));
    return this.ops.map((op, index) => this.point(op, this.x(index), this.heightOf(this.values[index]), size));
  }

  point(op, x, y, size) {
    if (op.reason) {
      const transform = `rotate(45 ${x} ${y})`;
      return draw("rect", { class: "point-float", x: x - size, y: y - size, width: 2 * size, height: 2 * size, transform });
    }
    if (op.part_of !== null) {
      return draw("circle", { class: "point-part", cx: x, cy: y, r: Math.max(1.2, size / 2.2) });
    }
    return draw("circle", { class: op.equal ? "point-equal" : "point", cx: x, cy: y, r: size });
  }

  mark() {
    this.line = draw("line", { class: "chosen-line", y1: this.top - 20, y2: this.bottom, "stroke-opacity": 0.5 });
    this.ring = draw("circle", { class: "chosen-ring", r: 7.5 });
    return [this.line, this.ring];
  }

  moveMark() {
    if (this.line) {
      const x = this.x(this.chosen);
      this.line.setAttribute("transform", `translate(${x} 0)`);
      this.ring.setAttribute("transform", `translate(${x} ${this.heightOf(this.values[this.chosen])})`);
    }
  }

  indexAt(event) {
    const x = event.clientX - this.box.getBoundingClientRect().left;
    const index = Math.floor(((x - this.left) / (this.right - this.left)) * this.ops.length);
    return Math.max(0, Math.min(this.ops.length - 1, index));
  }

  inWords(index) {
    const op = this.ops[index];
    if (op.part_of !== null) {
      return `inside of ${plain(op.becomes)} with ${plain(this.ops[op.part_of].op)}`;
    }
    const words = decibels(op) || "nothing to compare";
    return op.reason ? `${words}, left float: ${op.reason}` : words;
  }

  pointAt(event) {
    const index = this.indexAt(event);
    const op = this.ops[index];
    showTip(event, `${index + 1}  ${plain(op.op)}`, op.module, this.inWords(index));
  }
}

/** Neighbouring ops that lie in one module; where that is most of them all, in one module of it, and so on. */
function moduleRuns(ops, from = 0, to = ops.length - 1, depth = 1) {
  const runs = [];
  for (let index = from; index <= to; index += 1) {
    const name = ops[index].module.split(".").slice(0, depth).join(".");
    if (runs.length && runs.at(-1).name === name) {
      runs.at(-1).to = index;
    } else {
      runs.push({ name, from: index, to: index });
    }
  }
  return runs.flatMap((run) => (isTooLong(run, ops, depth) ? moduleRuns(ops, run.from, run.to, depth + 1) : [run]));
}

function isTooLong({ from, to }, ops, depth) {
  const members = ops.slice(from, to + 1);
  return members.length > ops.length / 2 && members.length > 8 && members.some((op) => op.module.split(".").length > depth);
}

function showTip(event, title, ...lines) {
  const tip = byId("tip");
  tip.replaceChildren(make("b", {}, title), ...lines.filter(Boolean).map((line) => make("div", {}, line)));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const x = Math.min(event.clientX + 14, document.documentElement.clientWidth - width - 8);
  const y = event.clientY + 18 + height > window.innerHeight ? event.clientY - height - 10 : event.clientY + 18;
  tip.style.transform = `translate(${Math.max(4, x)}px, ${Math.max(4, y)}px)`;
}

function hideTip() {
  byId("tip").hidden = true;
}
