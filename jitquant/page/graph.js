// A graph around one of its nodes, to walk through by clicks and by keys.

const NODE = { width: 148, height: 38, gapX: 14, gapY: 24, thin: 18 };

class GraphView {
  constructor(box, nodes, ops, what, choose) {
    Object.assign(this, { box, nodes, ops, what, choose, steps: 2, centre: 0, reason: "", same: new Set() });
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
    const same = ops.some((number) => this.same.has(number)) ? " same" : "";
    return `node${kind}${same}${index === this.centre ? " chosen" : ""}`;
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
  rows.forEach((row, index) => {
    let right = 0;
    for (const spot of row) {
      spot.x = right + widthOf(spot) / 2;
      spot.y = NODE.gapY / 2 + NODE.height / 2 + index * (NODE.height + NODE.gapY);
      right += widthOf(spot) + NODE.gapX;
    }
  });
  for (let sweep = 0; sweep < 8; sweep += 1) {
    (sweep % 2 ? [...rows].reverse() : rows).forEach((row) => moveTowardsNeighbours(row));
  }
  const all = rows.flat();
  const left = Math.min(...all.map((spot) => spot.x - widthOf(spot) / 2)) - NODE.gapX;
  all.forEach((spot) => Object.assign(spot, { x: spot.x - left }));
  const width = Math.max(...all.map((spot) => spot.x + widthOf(spot) / 2)) + NODE.gapX;
  return { width, height: rows.length * (NODE.height + NODE.gapY) };
}

function widthOf(spot) {
  return spot.node === null ? NODE.thin : NODE.width;
}

/** Every spot of a row goes where its neighbours are on the average, as far as the others let it. */
function moveTowardsNeighbours(row) {
  const wanted = row.map((spot) => {
    const beside = [...spot.above, ...spot.below].map((other) => other.x);
    return beside.length ? beside.reduce((a, b) => a + b, 0) / beside.length : spot.x;
  });
  const apart = (a, b) => (widthOf(row[a]) + widthOf(row[b])) / 2 + NODE.gapX;
  const fromLeft = [...wanted];
  const fromRight = [...wanted];
  for (let i = 1; i < row.length; i += 1) {
    fromLeft[i] = Math.max(wanted[i], fromLeft[i - 1] + apart(i - 1, i));
  }
  for (let i = row.length - 2; i >= 0; i -= 1) {
    fromRight[i] = Math.min(wanted[i], fromRight[i + 1] - apart(i, i + 1));
  }
  row.forEach((spot, i) => Object.assign(spot, { x: (fromLeft[i] + fromRight[i]) / 2 }));
}

function arrowHead() {
  const head = draw("path", { class: "arrow", d: "M0 0 L8 4 L0 8 z" });
  const size = { viewBox: "0 0 8 8", refX: 4, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" };
  return draw("defs", {}, draw("marker", { id: "arrow", ...size, markerUnits: "userSpaceOnUse" }, head));
}
