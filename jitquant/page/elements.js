// Elements and numbers in words. Text goes in as text, never as markup, so that a name can say anything.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function byId(id) {
  return document.getElementById(id);
}

/** At most that many characters, the end of which is what tells names apart. */
function shortened(text, length) {
  return text.length <= length ? text : `…${text.slice(text.length - length + 1)}`;
}

function plain(op) {
  return op.replace(/^aten::/, "");
}

/** Three digits that mean something: 0.0123, 1.23, 12.3, 123, 12300. */
function digits(value, count = 3) {
  if (value === 0) {
    return "0";
  }
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) {
    return value.toExponential(count - 1).replace("-", "−").replace("e−", "e-").replace("e+", "e");
  }
  const decimals = Math.max(0, count - 1 - Math.floor(Math.log10(size)));
  return value.toFixed(decimals).replace("-", "−");
}

/** A round number as an axis has it. */
function tickWords(value) {
  return String(Math.abs(value) >= 1e6 || (value && Math.abs(value) < 1e-4) ? digits(value, 1) : value).replace(/^-/, "−");
}

function decibels(op) {
  if (op.equal) {
    return "equal";
  }
  return op.sqnr === null ? "" : `${op.sqnr.toFixed(1).replace("-", "−")} dB`;
}

function percent(share) {
  if (share > 0 && share < 0.0001) {
    return "< 0.01 %";
  }
  const value = 100 * share;
  return `${value.toFixed(value > 0 && value < 1 ? 2 : 1).replace(/\.0+$/, "")} %`;
}

function bytes(count) {
  if (count >= 1e6) {
    return `${digits(count / 1e6)} MB`;
  }
  return count >= 1e3 ? `${digits(count / 1e3)} kB` : `${count} B`;
}

function microseconds(us) {
  return us === null ? "" : `${us >= 1e3 ? digits(us / 1e3) : us.toFixed(us < 10 ? 1 : 0)} ${us >= 1e3 ? "ms" : "µs"}`;
}

/** Round numbers between two others, at most about that many. */
function ticks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const found = [];
  for (let place = Math.ceil(low / step); place * step <= high + step * 1e-9; place += 1) {
    found.push(Number((place * step).toPrecision(12)));
  }
  return found;
}

/** Draws once now and again whenever the element becomes wider or narrower. */
function drawWithWidth(element, redraw) {
  let width = 0;
  new ResizeObserver(() => {
    if (element.clientWidth !== width && element.clientWidth > 0) {
      width = element.clientWidth;
      redraw();
    }
  }).observe(element);
}
