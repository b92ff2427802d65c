// Float and quantized values over one another, with the range that integers stand for and what it clips.

class Histogram {
  constructor(figure) {
    this.all = [];
    this.caption = make("figcaption");
    this.plot = make("div", { class: "plot" });
    this.note = make("p", { class: "note" });
    this.numbers = make("details", {}, make("summary", {}, "as a table"));
    figure.append(this.caption, this.plot, this.note, this.numbers);
    this.isLog = false;
    this.numbers.addEventListener("toggle", () => this.fillNumbers());
    drawWithWidth(this.plot, () => this.draw());
  }

  /** Names and data of what there is; one of them is drawn, and where there are more they can be chosen. */
  show(all, reason) {
    this.all = all;
    this.reason = reason;
    this.pick(0);
  }

  pick(place) {
    [this.name, this.data] = this.all[place] ?? ["Its weight", null];
    this.choice = null;
    if (this.all.length > 1) {
      const options = this.all.map(([name], index) => make("option", { value: index, selected: index === place }, name));
      this.choice = make("select", { "aria-label": "Which weight" }, ...options);
      this.choice.addEventListener("change", (event) => this.pick(Number(event.target.value)));
    }
    this.draw();
  }

  setLog(isLog) {
    this.isLog = isLog;
    this.draw();
  }

  draw() {
    if (this.data === undefined || this.plot.clientWidth === 0) {
      return;
    }
    const summary = this.data && (this.data.equal ? "equal" : decibels(this.data));
    this.caption.replaceChildren(this.choice ?? this.name, make("span", {}, summary ? ` – ${summary}` : ""));
    this.note.textContent = this.data ? rangeInWords(this.data) : "";
    this.numbers.hidden = !this.data;
    this.fillNumbers();
    this.plot.replaceChildren(this.data ? this.picture(summary) : make("p", { class: "empty" }, this.reason));
  }

  picture(summary) {
    const { first, width, float_shares: shares } = this.data;
    this.width = this.plot.clientWidth;
    this.bottom = this.plot.clientHeight - 30;
    this.last = first + width * shares.length;
    this.x = (value) => 1 + ((value - first) / (this.last - first)) * (this.width - 2);
    this.top = this.isLog ? Math.max(1, ...shares, ...this.data.quantized_shares) : topOf(shares, this.data.quantized_shares);
    const label = `${this.name}, ${summary}. ${this.note.textContent}`;
    const svg = draw("svg", { width: this.width, height: this.plot.clientHeight, role: "img", "aria-label": label });
    svg.append(hatch(), ...this.outside(), this.area(), this.line(), ...this.axis(), ...this.range(), ...this.cut());
    return svg;
  }

  y(share) {
    const part = this.isLog ? Math.log1p(share) / Math.log1p(this.top) : share / this.top;
    return this.bottom - Math.min(part, 1.08) * (this.bottom - 16);
  }

  /** What rises above the picture says how high it is. */
  cut() {
    const { first, width, float_shares: shares } = this.data;
    const highest = Math.max(...shares);
    if (this.isLog || highest <= this.top) {
      return [];
    }
    const x = this.x(first + (shares.indexOf(highest) + 1) * width);
    const isRight = x > this.width - 70;
    const words = percent(highest / 1e6);
    return [draw("text", { x: x + (isRight ? -12 : 6), y: 12, "text-anchor": isRight ? "end" : "start" }, words)];
  }

  /** The outline of the bins, from left to right. */
  outline(shares) {
    const { first, width } = this.data;
    return shares
      .map((share, bin) => {
        const y = this.y(share).toFixed(1);
        return `${this.x(first + bin * width).toFixed(1)},${y} ${this.x(first + (bin + 1) * width).toFixed(1)},${y}`;
      })
      .join(" ");
  }

  area() {
    const ends = [`${this.x(this.data.first)},${this.bottom}`, `${this.x(this.last)},${this.bottom}`];
    return draw("polygon", { class: "area", points: `${ends[0]} ${this.outline(this.data.float_shares)} ${ends[1]}` });
  }

  line() {
    return draw("polyline", { class: "steps-line", points: this.outline(this.data.quantized_shares) });
  }

  axis() {
    const drawn = [draw("line", { class: "axis", x1: 0, x2: this.width, y1: this.bottom, y2: this.bottom })];
    for (const value of ticks(this.data.first, this.last, Math.max(2, this.width / 80))) {
      const x = this.x(value);
      if (x > 12 && x < this.width - 12) {
        drawn.push(draw("line", { class: "axis", x1: x, x2: x, y1: this.bottom, y2: this.bottom + 4 }));
        drawn.push(draw("text", { x, y: this.bottom + 26, "text-anchor": "middle" }, tickWords(value)));
      }
    }
    return drawn;
  }

  outside() {
    const { range_low: low, range_high: high } = this.data;
    if (low === null) {
      return [];
    }
    const left = Math.max(0, this.x(low));
    const right = Math.min(this.width, this.x(high));
    return [
      draw("rect", { class: "outside", x: 0, y: 0, width: left, height: this.bottom }),
      draw("rect", { class: "outside", x: right, y: 0, width: Math.max(0, this.width - right), height: this.bottom }),
    ];
  }

  /** A bar below the axis as wide as the range, with its steps where they can be told apart. */
  range() {
    const { range_low: low, range_high: high, scale } = this.data;
    if (low === null) {
      return [];
    }
    const y = this.bottom + 9;
    const ends = [low, high].map((value) => Math.max(0, Math.min(this.width, this.x(value))));
    const drawn = ends.map((x) => draw("line", { class: "range-end", x1: x, x2: x, y1: 4, y2: y }));
    drawn.push(draw("line", { class: "range-bar", x1: ends[0], x2: ends[1], y1: y, y2: y }));
    if (this.data.narrow_low !== null) {
      const [x1, x2] = [this.x(this.data.narrow_low), this.x(this.data.narrow_high)];
      drawn.push(draw("line", { class: "range-narrow", x1, x2, y1: y, y2: y }));
    }
    if (this.x(low + scale) - this.x(low) >= 4) {
      for (let value = low; value <= high + scale / 2; value += scale) {
        drawn.push(draw("line", { class: "step-tick", x1: this.x(value), x2: this.x(value), y1: y - 4, y2: y + 4 }));
      }
    }
    return drawn;
  }

  fillNumbers() {
    if (!this.numbers.open || !this.data) {
      return;
    }
    const { first, width, float_shares: floats, quantized_shares: integers } = this.data;
    const body = make("tbody");
    floats.forEach((share, bin) => {
      if (share || integers[bin]) {
        const cells = [digits(first + bin * width), share / 1e4, integers[bin] / 1e4];
        body.append(make("tr", {}, ...cells.map((cell) => make("td", {}, typeof cell === "number" ? cell.toFixed(3) : cell))));
      }
    });
    const head = ["from", "float %", "quantized %"].map((word) => make("th", { scope: "col" }, word));
    const table = make("table", {}, make("thead", {}, make("tr", {}, ...head)), body);
    this.numbers.replaceChildren(this.numbers.firstChild, make("div", { class: "numbers", tabindex: 0 }, table));
  }
}

/** The highest bin, unless it is one that would leave nothing to see of the others: zeros behind a relu. */
function topOf(...all) {
  const [highest, second] = all.flatMap((shares) => [...shares].sort((a, b) => b - a).slice(0, 2)).sort((a, b) => b - a).filter((_, place) => place % 2 === 0);
  return Math.max(1, second > 0 && highest > 4 * second ? 1.3 * second : highest);
}

/** A pattern of lines for what lies outside; every picture has its own, since hidden ones lend none. */
function hatch() {
  const stripe = draw("path", { class: "hatch-line", d: "M0 6 L6 0 M-1 1 L1 -1 M5 7 L7 5" });
  return draw("defs", {}, draw("pattern", { id: "hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse" }, stripe));
}

function rangeInWords(data) {
  const extremes = `Float values from ${digits(data.lowest)} to ${digits(data.highest)}.`;
  const beyond = data.below + data.above > 0 ? ` ${percent(data.below + data.above)} of them lie beyond the picture.` : "";
  if (data.scale === null) {
    return `${extremes}${beyond}`;
  }
  const range = `${digits(data.range_low)} to ${digits(data.range_high)}`;
  const steps = `${data.steps} steps of ${digits(data.scale)}`;
  const clipped = data.clipped > 0 ? `${percent(data.clipped)} clipped.` : "nothing clipped.";
  if (data.channels > 1) {
    const narrow = `${digits(data.narrow_low)} to ${digits(data.narrow_high)}`;
    return `${data.channels} channels, ${data.steps} steps each; the widest range is ${range}, the narrowest ${narrow}; ${clipped} ${extremes}${beyond}`;
  }
  return `Range ${range}: ${steps}, zero point ${data.zero_point}; ${clipped} ${extremes}${beyond}`;
}
