// A graph around one of its nodes, to walk through by clicks and by keys.

const NODE = { width: 148, height: 38, gapX: 14, gapY: 24, thin: 18 };

class GraphView {
  constructor(box, nodes, ops, what, choose) {
    Object.assign(this, { box, nodes, ops, what, choose, steps: 2, centre: 0, reason: "" });
    this.inputs = nodes.map((node) => node.inputs);
    this.users = nodes.map(() => []);
    nodes.forEach((node, place) => node.inputs.forEach((input) => this.users[input].push(place)));
  }

  setSteps(steps) {
    this.steps = steps;
    this.draw();
  }

  /** Null for an op that this graph has no node of. */
  show(centre, reason) {
    this.centre = centre;
    this.reason = reason;
    this.draw();
  }

  draw() {
    if (this.centre === null) {
      this.box.replaceChildren(make("p", { class: "empty" }, this.reason));
      return;
    }
    const near = neighbours(this, this.centre, this.steps);
    this.drawn = new Set(near);
    const rows = layOut(this, near);
    const { width, height } = place(rows);
    const svg = draw("svg", { width, height, role: "group", "aria-label": `${this.what}, around ${this.name(this.centre)}` });
    const all = rows.flat();
    svg.append(arrowHead(), ...all.flatMap((spot) => this.edgesInto(spot)), ...all.map((spot) => this.node(spot)).filter(Boolean));
    this.box.replaceChildren(svg);
    this.scrollToCentre(all.find((spot) => spot.node === this.centre));
  }

  scrollToCentre(spot) {
    this.box.scrollTop = spot.y - this.box.clientHeight / 2;
    this.box.scrollLeft = spot.x - this.box.clientWidth / 2;
  }

  name(index) {
    const { op, module } = this.nodes[index];
    return module ? `${plain(op)} of ${module}` : plain(op);
  }

  edgesInto(spot) {
    return spot.above.map((upper) => {
      const start = upper.y + (upper.node === null ? 0 : NODE.height / 2);
      const end = spot.y - (spot.node === null ? 0 : NODE.height / 2 + 5);
      const middle = (start + end) / 2;
      const near = upper.node === this.centre || spot.node === this.centre ? " near" : "";
      const d = `M${upper.x} ${start} C${upper.x} ${middle} ${spot.x} ${middle} ${spot.x} ${end}`;
      const passed = spot.node === null ? ` V${spot.y + 1}` : "";
      return draw("path", { class: `edge${near}`, d: d + passed, "marker-end": spot.node === null ? null : "url(#arrow)" });
    });
  }

  node(spot) {
    if (spot.node === null) {
      return null;
    }
    const { op, module } = this.nodes[spot.node];
    const attributes = { class: this.classOf(spot.node), transform: `translate(${spot.x} ${spot.y})`, "data-node": spot.node };
    const hidden = [...this.inputs[spot.node], ...this.users[spot.node]].some((other) => !this.drawn.has(other));
    const words = [
      draw("title", {}, `${op} ${module}`),
      draw("rect", { x: -NODE.width / 2, y: -NODE.height / 2, width: NODE.width, height: NODE.height, rx: 7 }),
      draw("text", { class: "op-name", y: module ? -3 : 4 }, shortened(plain(op).replace(/^(quantized|jitquant|onednn)::/, ""), 19)),
      draw("text", { y: 12 }, shortened(module, 23)),
      hidden ? draw("text", { x: NODE.width / 2 - 10, y: -9 }, "⋯") : null,
    ];
    const button = { role: "button", tabindex: 0, "aria-label": this.name(spot.node), "aria-current": spot.node === this.centre };
    return this.listen(draw("g", { ...attributes, ...button }, ...words), spot.node);
  }

  classOf(index) {
    const { op, ops } = this.nodes[index];
    if (op === "input" || op === "output") {
      return "node end";
    }
    const left = ops.length > 0 && ops.every((number) => this.ops[number].reason);
    const kind = left ? " left" : ops.length ? " integer" : "";
    return `node${kind}${index === this.centre ? " chosen" : ""}`;
  }

  listen(element, index) {
    element.addEventListener("click", () => this.choose(index));
    element.addEventListener("keydown", (event) => {
      const next = { ArrowUp: this.inputs[index][0], ArrowDown: this.users[index][0] }[event.key];
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        this.goTo(index);
      } else if (next !== undefined) {
        event.preventDefault();
        this.goTo(next);
      }
    });
    return element;
  }

  goTo(index) {
    this.choose(index);
    this.box.querySelector(`[data-node="${this.centre}"]`)?.focus();
  }
}

/** Gives every spot its middle, and says how large the picture is. */
function place(rows) {
  const widthOf = (spot) => (spot.node === null ? NODE.thin : NODE.width);
  const widths = rows.map((row) => row.reduce((sum, spot) => sum + widthOf(spot) + NODE.gapX, -NODE.gapX));
  const width = Math.max(...widths) + 2 * NODE.gapX;
  rows.forEach((row, index) => {
    let x = (width - widths[index]) / 2;
    for (const spot of row) {
      spot.x = x + widthOf(spot) / 2;
      spot.y = NODE.gapY / 2 + NODE.height / 2 + index * (NODE.height + NODE.gapY);
      x += widthOf(spot) + NODE.gapX;
    }
  });
  return { width, height: rows.length * (NODE.height + NODE.gapY) };
}

function arrowHead() {
  const head = draw("path", { class: "arrow", d: "M0 0 L8 4 L0 8 z" });
  const size = { viewBox: "0 0 8 8", refX: 4, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" };
  return draw("defs", {}, draw("marker", { id: "arrow", ...size, markerUnits: "userSpaceOnUse" }, head));
}
