// What is chosen, and what follows from it.

class Page {
  constructor(data) {
    this.data = data;
    this.curve = new Curve(byId("curve"), data, (index) => this.choose(index));
    this.table = new OpTable(byId("table"), data, (index) => this.choose(index));
    this.activation = new Histogram(byId("activation"));
    this.weight = new Histogram(byId("weight"));
    this.floatGraph = new GraphView(byId("float-graph"), data.float_graph, data.ops, "Float graph", (node) => this.walkTo(this.floatGraph, node));
    this.graph = new GraphView(byId("graph"), data.graph, data.ops, "Quantized graph", (node) => this.walkTo(this.graph, node));
    fillHead(data);
    fillFloatOps(data.ops, (index) => this.choose(index, true));
    this.listenToTools();
    document.addEventListener("keydown", (event) => this.pressed(event));
    window.addEventListener("hashchange", () => this.choose(this.indexInAddress()));
    this.choose(this.indexInAddress());
  }

  choose(index, scroll = false) {
    this.chosen = index;
    const op = this.data.ops[index];
    this.curve.select(index);
    this.table.select(index);
    this.describe(op, index);
    const given = this.data.ops[op.part_of ?? index];
    const name = given === op ? "What it gives" : `What ${plain(given.op)} behind it gives`;
    this.activation.show([[name, given.activation]], given.no_activation);
    this.weight.show(this.weightsOf(index), op.no_weights);
    this.floatGraph.same = this.graph.same = new Set(this.sameNode(index));
    this.floatGraph.show(op.float_node, "It has no node of its own in this graph.");
    this.graph.show(op.node, "It has no node of its own in this graph.");
    history.replaceState(null, "", `#${encodeURIComponent(op.key)}`);
    byId("previous").disabled = index === 0;
    byId("next").disabled = index === this.data.ops.length - 1;
    if (scroll) {
      byId("op-title").scrollIntoView({ block: "center" });
    }
  }

  /** Its own, or those of ops that are computed inside of the same integer op. */
  weightsOf(index) {
    const own = this.data.ops[index].weights.map(([name, data]) => [`Its ${name}`, data]);
    const others = this.sameNode(index).filter((other) => other !== index).map((other) => this.data.ops[other]);
    const theirs = others.flatMap((op) => op.weights.map(([name, data]) => [`The ${name} of ${plain(op.op)} in the same op`, data]));
    return own.length ? own : theirs;
  }

  /** The ops that are computed by one integer op with this one. */
  sameNode(index) {
    const whole = this.data.ops[index].part_of ?? index;
    return this.data.ops.map((_, other) => other).filter((other) => (this.data.ops[other].part_of ?? other) === whole);
  }

  indexInAddress() {
    const index = this.data.ops.findIndex((op) => `#${encodeURIComponent(op.key)}` === location.hash);
    return index >= 0 ? index : Math.max(0, this.worst());
  }

  /** Where one would look first: the op with the lowest SQNR. */
  worst() {
    const known = this.data.ops.map((op, index) => ({ index, sqnr: op.sqnr })).filter(({ sqnr }) => sqnr !== null);
    return known.length ? known.reduce((a, b) => (b.sqnr < a.sqnr ? b : a)).index : 0;
  }

  describe(op, index) {
    const isPart = op.part_of !== null;
    byId("op-title").textContent = byId("op-title").title = plain(op.op);
    byId("op-path").replaceChildren(make("bdi", {}, op.module || "the model itself"));
    byId("op-path").title = op.module;
    const kind = byId("op-kind");
    kind.textContent = op.reason ? "float" : "integer";
    kind.classList.toggle("float", Boolean(op.reason));
    byId("op-facts").replaceChildren(...factsOf(op, this.data.ops, this.sameNode(index)).map(factElement));
    byId("op-remark").textContent = byId("op-remark").title = remarkOn(op, this.data.ops);
    const words = isPart ? "inside of another op" : decibels(op);
    byId("announcement").textContent = `${plain(op.op)} ${op.module}, ${op.reason ? "float" : "integer"}, ${words}`;
  }

  /** A node without an op of the model, such as a quantize, becomes the middle of its own graph alone. */
  walkTo(view, node) {
    const ops = view.nodes[node].ops;
    if (ops.length && !ops.includes(this.chosen)) {
      this.choose(ops.at(-1));
    }
    if (view.centre !== node) {
      view.show(node, "");
    }
  }

  step(by) {
    const next = this.chosen + by;
    if (next >= 0 && next < this.data.ops.length) {
      this.choose(next);
    }
  }

  pressed(event) {
    const isTyping = event.target.matches("input, select, textarea");
    if (event.key === "Escape" && event.target === byId("filter")) {
      this.filter("");
      this.table.selected.focus();
    } else if (event.key === "Enter" && event.target === byId("filter") && this.table.shown.length) {
      this.choose(this.table.shown[0]);
    }
    if (isTyping || event.ctrlKey || event.metaKey || event.altKey) {
      return;
    }
    const actions = {
      ArrowRight: () => this.step(1),
      ArrowLeft: () => this.step(-1),
      "/": () => byId("filter").focus(),
    };
    if (event.target === byId("curve")) {
      const last = this.data.ops.length - 1;
      Object.assign(actions, {
        ArrowUp: () => this.step(1),
        ArrowDown: () => this.step(-1),
        Home: () => this.choose(0),
        End: () => this.choose(last),
      });
    }
    if (actions[event.key]) {
      event.preventDefault();
      actions[event.key]();
    }
  }

  filter(text) {
    byId("filter").value = text;
    this.table.filterBy(text, pressedIn("[data-kind]").dataset.kind);
  }

  listenToTools() {
    byId("filter").addEventListener("input", (event) => this.filter(event.target.value));
    onPress("[data-kind]", () => this.filter(byId("filter").value));
    onPress("[data-scale]", (button) => {
      for (const histogram of [this.activation, this.weight]) {
        histogram.setLog(button.dataset.scale === "log");
      }
    });
    byId("steps").addEventListener("change", (event) => {
      for (const view of [this.floatGraph, this.graph]) {
        view.setSteps(Number(event.target.value));
      }
    });
    byId("previous").addEventListener("click", () => this.step(-1));
    byId("next").addEventListener("click", () => this.step(1));
  }
}

/** One of some buttons is pressed at a time. */
function onPress(selector, action) {
  const buttons = document.querySelectorAll(selector);
  for (const button of buttons) {
    button.addEventListener("click", () => {
      buttons.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
      action(button);
    });
  }
}

function pressedIn(selector) {
  return document.querySelector(`${selector}[aria-pressed="true"]`);
}

/** Times are those of all ops that one integer op computes, in float and now. */
function factsOf(op, ops, same) {
  const behind = op.part_of === null ? null : ops[op.part_of];
  const float = same.reduce((sum, other) => sum + (ops[other].float_us ?? 0), 0) || null;
  const times = [float, (behind ?? op).us].map((us) => microseconds(us) || "–").join(" → ");
  return [
    ["becomes", op.becomes || "–"],
    behind ? ["SQNR, behind it", decibels(behind) || "–"] : ["SQNR", decibels(op) || "–"],
    [same.length > 1 ? `time of all ${same.length}` : "time, float → now", times],
    ["weight, float → now", op.float_bytes ? `${bytes(op.float_bytes)} → ${bytes(op.bytes)}` : "none"],
    ["source", op.source || "not known"],
  ];
}

function remarkOn(op, ops) {
  if (op.reason) {
    return `Stays float: ${op.reason}.`;
  }
  return op.part_of === null ? "" : `Computed inside of one op with ${plain(ops[op.part_of].op)} (${op.part_of + 1}) behind it.`;
}

function factElement([name, value]) {
  return make("div", {}, make("dt", {}, name), make("dd", { title: value }, value));
}

function fillHead({ figures, facts }) {
  const shares = [
    ["integer ops", `${figures.integer_ops} of ${figures.ops}`],
    ["integer weights", figures.weights_share === null ? "–" : percent(figures.weights_share)],
    ["integer multiply-adds", figures.multiply_adds_share === null ? "–" : percent(figures.multiply_adds_share)],
  ];
  const times = `${digits(figures.float_ms)} → ${digits(figures.ms)} ms`;
  const head = [
    ["SQNR of the output", decibels(figures) || "–", ""],
    ["time of a call, float → now", times, `${digits(figures.float_ms / figures.ms, 2)} ×`],
    ["file, float → now", `${bytes(figures.float_bytes)} → ${bytes(figures.bytes)}`, percent(figures.bytes / figures.float_bytes)],
    ...shares,
  ];
  byId("figures").append(
    ...head.map(([name, value, more]) =>
      make("div", {}, make("dt", {}, name), make("dd", {}, value, more ? make("small", {}, ` ${more}`) : null)),
    ),
  );
  byId("subtitle").textContent = facts.slice(0, 3).map(([, value]) => value).join(" · ");
  byId("facts").append(...facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
}

/** Ops with one reason together. What follows a colon differs from op to op. */
function fillFloatOps(ops, choose) {
  const groups = new Map();
  ops.forEach((op, index) => {
    if (op.reason) {
      const [reason, ...rest] = op.reason.split(/:\s(.*)/s);
      groups.set(reason, [...(groups.get(reason) ?? []), { op, index, rest: rest[0] ?? "" }]);
    }
  });
  const box = byId("float-ops");
  if (!groups.size) {
    box.append(make("p", { class: "muted" }, "Nothing: every op is integer."));
  }
  for (const [reason, members] of groups) {
    const items = members.map(({ op, index, rest }) => {
      const button = make("button", { type: "button" }, `${plain(op.op)} `, make("small", {}, [op.module, rest].filter(Boolean).join(" – ")));
      button.addEventListener("click", () => choose(index));
      return make("li", {}, button);
    });
    box.append(make("div", { class: "reason" }, make("h3", {}, `${reason} (${members.length})`), make("ul", {}, ...items)));
  }
}

new Page(JSON.parse(byId("data").textContent));
