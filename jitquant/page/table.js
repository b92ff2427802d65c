// The ops as a table that can be filtered and sorted; also what the curve says, for those who cannot see it.

const COLUMNS = [
  { name: "#", kind: "number", key: (op, index) => index },
  { name: "op", kind: "op", key: (op) => `${op.op} ${op.module}` },
  { name: "dB", kind: "figure", key: (op) => (op.equal ? Infinity : op.sqnr) },
  { name: "float µs", kind: "figure", key: (op) => op.float_us, optional: true },
  { name: "µs", kind: "figure", key: (op) => op.us },
  { name: "kB", kind: "figure", key: (op) => op.bytes || null },
];

class OpTable {
  constructor(table, data, choose) {
    Object.assign(this, { table, ops: data.ops, choose, text: "", kind: "all", sorted: 0, downward: false });
    this.longest = Math.max(1e-9, ...data.ops.map((op) => op.us ?? 0));
    this.body = table.tBodies[0];
    this.rows = this.ops.map((op, index) => this.row(op, index));
    table.prepend(make("colgroup", {}, ...COLUMNS.map((column) => make("col", { class: `${column.kind}${column.optional ? " optional" : ""}` }))));
    table.tHead.rows[0].append(...COLUMNS.map((column, place) => this.header(column, place)));
    table.tFoot.append(...data.other_times.map(otherRow));
    this.body.addEventListener("keydown", (event) => this.pressed(event));
    this.arrange();
  }

  header(column, place) {
    const button = make("button", { type: "button" }, column.name);
    button.addEventListener("click", () => this.sortBy(place));
    return make("th", { scope: "col", class: column.optional ? "optional-cell" : null }, button);
  }

  row(op, index) {
    const state = op.reason ? "is-float" : op.part_of !== null ? "is-part" : "is-integer";
    const name = make("span", { class: "cell-op" }, make("span", { class: "mark" }), plain(op.op));
    const path = make("span", { class: "cell-path" }, make("bdi", {}, op.module || "\u00a0"));
    const time = make("td", {}, inUnits(op.us));
    if (op.us !== null) {
      time.append(make("span", { class: "bar", style: `width:${(100 * op.us) / this.longest}%` }));
    }
    const cells = [
      make("td", {}, String(index + 1)),
      make("td", { title: [op.op, op.module, op.becomes || op.reason].filter(Boolean).join("\n") }, name, path),
      make("td", {}, op.part_of === null ? decibels(op).replace(" dB", "") : ""),
      make("td", { class: "optional-cell" }, inUnits(op.float_us)),
      time,
      make("td", {}, inUnits(op.bytes ? op.bytes / 1e3 : null)),
    ];
    const row = make("tr", { class: state, tabindex: -1, "aria-selected": "false", "data-op": index }, ...cells);
    row.addEventListener("click", () => this.choose(index));
    return row;
  }

  sortBy(place) {
    this.downward = this.sorted === place ? !this.downward : COLUMNS[place].kind === "figure" && COLUMNS[place].name !== "dB";
    this.sorted = place;
    this.arrange();
  }

  filterBy(text, kind) {
    this.text = text.trim().toLowerCase();
    this.kind = kind;
    this.arrange();
  }

  matches(op) {
    const isKind = this.kind === "all" || (this.kind === "float") === Boolean(op.reason);
    const said = [op.op, op.module, op.becomes, op.reason, op.source].join(" ").toLowerCase();
    return isKind && this.text.split(/\s+/).every((word) => said.includes(word));
  }

  /** Shows what matches, in order. Ops without a figure come last, whichever way it is sorted. */
  arrange() {
    const key = COLUMNS[this.sorted].key;
    const sign = this.downward ? -1 : 1;
    const keys = this.ops.map((op, index) => key(op, index));
    this.shown = this.ops.map((_, index) => index).filter((index) => this.matches(this.ops[index]));
    this.shown.sort((a, b) => {
      if (keys[a] === null || keys[b] === null) {
        return (keys[a] === null) - (keys[b] === null) || a - b;
      }
      return keys[a] === keys[b] ? a - b : sign * (keys[a] < keys[b] ? -1 : 1);
    });
    this.body.replaceChildren(...this.shown.map((index) => this.rows[index]));
    byId("count").textContent = `${this.shown.length} of ${this.ops.length}`;
    [...this.table.tHead.rows[0].cells].forEach((cell, place) => {
      if (place === this.sorted) {
        cell.setAttribute("aria-sort", this.downward ? "descending" : "ascending");
      } else {
        cell.removeAttribute("aria-sort");
      }
    });
  }

  select(index) {
    if (this.selected) {
      this.selected.setAttribute("aria-selected", "false");
      this.selected.tabIndex = -1;
    }
    this.selected = this.rows[index];
    this.selected.setAttribute("aria-selected", "true");
    this.selected.tabIndex = 0;
    this.reveal();
  }

  /** Scrolls the rows alone, or the whole page would jump while somebody looks at something else. */
  reveal() {
    const box = this.table.parentElement;
    if (!this.selected.isConnected) {
      return;
    }
    const top = this.selected.offsetTop - this.table.tHead.offsetHeight;
    const bottom = this.selected.offsetTop + this.selected.offsetHeight;
    if (top < box.scrollTop) {
      box.scrollTop = top;
    } else if (bottom > box.scrollTop + box.clientHeight) {
      box.scrollTop = bottom - box.clientHeight;
    }
  }

  /** Up and down go through the rows as they are shown. */
  pressed(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      const place = this.shown.indexOf(Number(this.selected.dataset.op)) + step;
      if (place >= 0 && place < this.shown.length) {
        this.choose(this.shown[place]);
        this.selected.focus({ preventScroll: true });
      }
    }
  }
}

/** For columns that say their unit: one decimal where there is no more before it than one digit. */
function inUnits(value) {
  return value === null ? "" : value.toFixed(value < 10 ? 1 : 0);
}

function otherRow({ what, calls, us }) {
  const name = calls > 1 ? `${what} (${calls})` : what;
  const cells = ["", name, "", "", inUnits(us), ""];
  return make("tr", {}, ...cells.map((cell, place) => make("td", { class: COLUMNS[place].optional ? "optional-cell" : null }, cell)));
}
