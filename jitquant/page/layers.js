// Where the nodes around one of them are drawn: in layers, so that every edge goes down.

/** The nodes at most that many steps up or down from the centre; fewer steps where they would be too many. */
function neighbours(graph, centre, steps, most = 60) {
  const found = new Set([centre]);
  for (const next of [graph.inputs, graph.users]) {
    let edge = [centre];
    for (let step = 0; step < steps && found.size < most; step += 1) {
      edge = [...new Set(edge.flatMap((node) => next[node]))].filter((node) => !found.has(node)).slice(0, most - found.size);
      edge.forEach((node) => found.add(node));
    }
  }
  return [...found].sort((a, b) => a - b);
}

/** The layer of each node: one below the lowest of what it takes from. Nodes come in program order. */
function layersOf(graph, nodes) {
  const layer = new Map();
  const inside = new Set(nodes);
  for (const node of nodes) {
    const above = graph.inputs[node].filter((input) => inside.has(input) && layer.has(input));
    layer.set(node, above.length ? 1 + Math.max(...above.map((input) => layer.get(input))) : null);
  }
  // What takes from nothing here stands right above its first user.
  for (const node of [...nodes].reverse()) {
    const below = graph.users[node].filter((user) => inside.has(user)).map((user) => layer.get(user));
    if (layer.get(node) === null) {
      const known = below.filter((value) => value !== null);
      layer.set(node, known.length ? Math.min(...known) - 1 : 0);
    }
  }
  return layer;
}

/**
 * Rows of places from top to bottom. A place holds a node, or is passed by an edge that goes further down, so
 * that no edge runs through a node. Each knows the places it takes from, and after some sweeps stands near them.
 */
function layOut(graph, nodes) {
  const layer = layersOf(graph, nodes);
  const least = Math.min(...layer.values());
  const rows = Array.from({ length: Math.max(...layer.values()) - least + 1 }, () => []);
  const places = new Map();
  for (const node of nodes) {
    const place = { node, row: layer.get(node) - least, above: [], below: [] };
    places.set(node, place);
    rows[place.row].push(place);
  }
  for (const node of nodes) {
    for (const input of graph.inputs[node].filter((name) => places.has(name))) {
      connect(places.get(input), places.get(node), rows);
    }
  }
  for (let sweep = 0; sweep < 6; sweep += 1) {
    orderRows(rows, sweep % 2 === 0 ? "above" : "below");
  }
  return rows;
}

function connect(upper, lower, rows) {
  let from = upper;
  for (let row = upper.row + 1; row < lower.row; row += 1) {
    const passing = { node: null, row, above: [from], below: [] };
    from.below.push(passing);
    rows[row].push(passing);
    from = passing;
  }
  from.below.push(lower);
  lower.above.push(from);
}

function orderRows(rows, side) {
  rows.forEach((row) => row.forEach((place, index) => Object.assign(place, { index })));
  const inOrder = side === "above" ? rows : [...rows].reverse();
  for (const row of inOrder) {
    const middle = (place) => {
      const beside = place[side].map((other) => other.index / Math.max(1, rows[other.row].length - 1 || 1));
      return beside.length ? beside.reduce((a, b) => a + b, 0) / beside.length : place.index / Math.max(1, row.length - 1 || 1);
    };
    const middles = new Map(row.map((place) => [place, middle(place)]));
    row.sort((a, b) => middles.get(a) - middles.get(b) || a.index - b.index);
    row.forEach((place, index) => Object.assign(place, { index }));
  }
}
