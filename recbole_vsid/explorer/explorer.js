// The tree of semantic IDs. Items are sorted by their codes, so a prefix of d tokens is a range [from, to) of rows.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const n = data.ids.length, width = data.content_sizes.length, CHUNK = 100;
const total = new Float64Array(n + 1);
for (let row = 0; row < n; row++) total[row + 1] = total[row] + data.events[row];
const code = (row, depth) => data.codes[row * width + depth];
const events = node => total[node.to] - total[node.from];
const size = node => node.to - node.from;
const contentLength = row => data.lengths[row] - (data.suffix ? 1 : 0);
const path = (row, depth) => Array.from({length: depth}, (_, position) => code(row, position));
const number = value => value.toLocaleString("en");
const many = (count, what) => `${number(count)} ${what}${count === 1 ? "" : "s"}`;
const searchable = data.ids.map((id, row) => `${id}\n${data.titles[row]}`.toLowerCase());

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children);  // strings become text, never markup
  return element;
}

// ---------------------------------------------------------------- the tree

// The nodes one token below a node. A single item is a leaf, however many tokens its code still has.
function children(node) {
  const found = [];
  for (let row = node.from; row < node.to;) {
    let end = row + 1;
    if (data.lengths[row] > node.depth) while (end < node.to && code(end, node.depth) === code(row, node.depth)) end++;
    found.push({from: row, to: end, depth: node.depth + 1, leaf: end - row === 1});
    row = end;
  }
  return found;
}

const orders = {
  items: (a, b) => size(b) - size(a) || events(b) - events(a),
  events: (a, b) => events(b) - events(a) || size(b) - size(a),
  token: (a, b) => a.from - b.from,
};
let order = "items";

function mostPopular(node) {
  let best = node.from;
  for (let row = node.from + 1; row < node.to; row++) if (data.events[row] > data.events[best]) best = row;
  return best;
}

function bar(share) {
  const mark = make("span", {class: "bar", "aria-hidden": "true"});
  mark.style.setProperty("--share", `${Math.max(100 * share, 0.5)}%`);
  return mark;
}

function entry(node, parent, most) {
  const row = mostPopular(node);
  const text = make("span", {class: "title"}, node.leaf ? data.titles[row] : `e.g. ${data.titles[row]}`);
  const counts = node.leaf ? many(events(node), "event") : `${many(size(node), "item")} · ${many(events(node), "event")}`;
  const tokens = chips(node.from, parent.depth, node.leaf ? data.lengths[row] : node.depth);
  const label = [make("span", {}, ...tokens), text, make("span", {class: "counts"}, counts), bar(events(node) / most)];
  const item = make("li", {"data-from": node.from, "data-to": node.to, "data-depth": node.depth});
  if (node.leaf) {
    item.append(make("button", {class: "node leaf", type: "button", onclick: () => showItem(node.from)}, ...label));
  } else {
    const button = make("button", {class: "node", type: "button", "aria-expanded": "false"}, ...label);
    button.addEventListener("click", () => { toggle(item, node, button); showNode(node); });
    item.append(button);
  }
  return item;
}

function toggle(item, node, button, open = button.getAttribute("aria-expanded") === "false") {
  const list = item.querySelector(":scope > ul");
  button.setAttribute("aria-expanded", String(open));
  if (list) list.hidden = !open;
  else if (open) item.append(childList(node));
}

// The children of a node, a hundred at a time.
function childList(node) {
  const list = make("ul"), nodes = children(node).sort(orders[order]);
  const most = nodes.reduce((largest, each) => Math.max(largest, events(each)), 1);
  list.nodes = nodes;
  let shown = 0;
  list.show = upTo => {
    list.querySelector(":scope > li.more")?.remove();
    while (shown < Math.min(upTo, nodes.length)) list.append(entry(nodes[shown++], node, most));
    if (shown < nodes.length) {
      const text = `show ${Math.min(CHUNK, nodes.length - shown)} more of ${number(nodes.length - shown)}`;
      list.append(make("li", {class: "more"}, make("button", {type: "button", onclick: () => {
        const first = shown;
        list.show(shown + CHUNK);
        list.children[first].querySelector("button").focus();  // the button that had it is gone
      }}, text)));
    }
  };
  list.show(CHUNK);
  return list;
}

const root = {from: 0, to: n, depth: 0, leaf: false};
const tree = document.getElementById("tree");
function plant() { tree.replaceChildren(childList(root)); }

// Open the tree down to an item and mark it.
function reveal(row) {
  let list = tree.firstElementChild;
  for (;;) {
    const place = list.nodes.findIndex(node => node.from <= row && row < node.to), node = list.nodes[place];
    if (!list.querySelector(`:scope > li[data-from="${node.from}"][data-to="${node.to}"]`)) list.show(place + 1);
    const item = list.querySelector(`:scope > li[data-from="${node.from}"][data-to="${node.to}"]`);
    const button = item.querySelector(":scope > button");
    if (node.leaf) {
      tree.querySelector(".chosen")?.classList.remove("chosen");
      button.classList.add("chosen");
      tree.scrollTop += button.getBoundingClientRect().top - tree.getBoundingClientRect().top - tree.clientHeight / 2;
      return;
    }
    toggle(item, node, button, true);
    list = item.querySelector(":scope > ul");
  }
}

// --------------------------------------------------------------- the panel

const panel = document.getElementById("panel");

// The tokens of an item's code from one depth to another, with blanks between them for those who copy or listen.
function chips(row, from = 0, to = data.lengths[row]) {
  return path(row, to).slice(from).flatMap((token, place) => {
    const position = from + place, suffix = data.suffix && position === data.lengths[row] - 1;
    const title = suffix ? "tells apart items with the same content code" : `position ${position + 1}`;
    return [make("span", {class: suffix ? "token suffix" : "token", title}, String(token)), " "];
  });
}

function itemButton(row, note) {
  return make("button", {class: "link", type: "button", onclick: () => { reveal(row); showItem(row); }},
    make("span", {class: "title"}, data.titles[row]), make("span", {class: "counts"}, note));
}

// Items that share the longest prefixes with one, longest first, then the most popular; none that share no token.
function nearest(row, most = 20) {
  const found = [];
  let from = row, to = row + 1;
  for (let depth = data.lengths[row]; depth > 0 && found.length < most; depth--) {
    let first = from, last = to;
    const same = other => path(row, depth).every((token, position) => code(other, position) === token);
    while (first > 0 && same(first - 1)) first--;
    while (last < n && same(last)) last++;
    const shell = [];
    for (let other = first; other < last; other++) if (other < from || other >= to) shell.push(other);
    shell.sort((a, b) => data.events[b] - data.events[a]);
    for (const other of shell.slice(0, most - found.length)) found.push([other, Math.min(depth, contentLength(row))]);
    [from, to] = [first, last];
  }
  return found;
}

// Replace what the panel shows; its heading takes the focus if it was on something that is gone.
function fill(heading, ...content) {
  const inside = panel.contains(document.activeElement);
  panel.replaceChildren(heading, ...content);
  panel.scrollTop = 0;
  if (inside) heading.focus();
}

function showItem(row) {
  const near = nearest(row);
  fill(
    make("h2", {tabindex: "-1"}, data.titles[row]),
    make("p", {class: "counts"}, `id ${data.ids[row]} · ${many(data.events[row], "training event")} · ${many(contentLength(row), "content token")}`),
    make("p", {}, ...chips(row)),
    make("h3", {}, "Nearest items by shared prefix"),
    near.length
      ? make("ol", {class: "near"}, ...near.map(([other, shared]) => make("li", {}, itemButton(other,
          `shares ${many(shared, "token")} · ${many(data.events[other], "event")}`))))
      : make("p", {class: "counts"}, "No other item shares its first token."));
}

function showNode(node) {
  const rows = Array.from({length: size(node)}, (_, place) => node.from + place);
  rows.sort((a, b) => data.events[b] - data.events[a]);
  fill(
    make("h2", {tabindex: "-1"}, "Prefix ", ...chips(node.from, 0, node.depth)),
    make("p", {class: "counts"}, `${many(size(node), "item")} · ${many(events(node), "training event")}`),
    make("h3", {}, "Most popular items below it"),
    make("ol", {class: "near"}, ...rows.slice(0, 20).map(row => make("li", {}, itemButton(row, many(data.events[row], "event"))))));
}

// -------------------------------------------------------------- the search

const box = document.getElementById("search"), results = document.getElementById("results");

function matches(text) {
  const tokens = text.match(/^\d+(?:[\s,-]+\d+)*[\s,-]*$/) ? text.match(/\d+/g).map(Number) : null;
  const words = text.toLowerCase().split(/\s+/).filter(Boolean), found = [];
  for (let row = 0; row < n; row++) {
    const byCode = tokens && tokens.length <= data.lengths[row] && tokens.every((token, position) => code(row, position) === token);
    if (byCode || words.every(word => searchable[row].includes(word))) found.push(row);
  }
  return found.sort((a, b) => data.events[b] - data.events[a]);
}

function marked(text, words) {
  const lower = text.toLowerCase(), parts = [];
  let at = 0;
  while (at < text.length) {
    const starts = words.map(word => lower.indexOf(word, at)).map((place, which) => [place, words[which].length]).filter(([place]) => place >= 0);
    if (!starts.length) break;
    const [place, length] = starts.sort((a, b) => a[0] - b[0] || b[1] - a[1])[0];
    parts.push(text.slice(at, place), make("mark", {}, text.slice(place, place + length)));
    at = place + length;
  }
  return [...parts, text.slice(at)];
}

function search() {
  const text = box.value.trim();
  results.replaceChildren();
  if (!text) return;
  const found = matches(text), words = text.toLowerCase().split(/\s+/);
  results.append(make("p", {class: "counts", role: "status"}, `${many(found.length, "item")}${found.length > 50 ? ", the 50 most popular of them" : ""}`));
  for (const row of found.slice(0, 50)) {
    results.append(make("button", {class: "link", type: "button", onclick: () => { reveal(row); showItem(row); }},
      make("span", {class: "title"}, ...marked(data.titles[row], words)),
      make("span", {class: "counts"}, ...marked(data.ids[row], words), ` · ${path(row, data.lengths[row]).join("-")}`)));
  }
}
box.addEventListener("input", search);

// ------------------------------------------------------------- the pictures

function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function perplexity(counts) {
  const sum = counts.reduce((a, b) => a + b, 0);
  return Math.exp(-counts.reduce((entropy, count) => entropy + (count ? count / sum * Math.log(count / sum) : 0), 0));
}

// One picture per position: how many items have each content code, the most used first. Where all codes are equally long,
// the last position holds nothing but the tokens that tell items apart, and is shown as such.
function codebookUse() {
  for (let position = 0; position < width; position++) {
    const ends = data.suffix && data.lengths.every(length => length === width) && position === width - 1;
    const [least, size] = ends ? data.suffix_codes : [0, data.content_sizes[position]];
    const counts = new Array(size).fill(0);
    for (let row = 0; row < n; row++) if (contentLength(row) > position || ends) counts[code(row, position) - least]++;
    if (!counts.some(Boolean)) continue;  // only tokens that tell items apart, of codes of different lengths
    const sorted = counts.slice().sort((a, b) => b - a), used = sorted.filter(count => count).length;
    const step = 300 / sorted.length;
    const points = sorted.flatMap((count, place) => [[place * step, count], [(place + 1) * step, count]]);
    const line = points.map(([x, count]) => `${x.toFixed(2)},${(90 - 85 * count / sorted[0]).toFixed(2)}`).join(" ");
    document.getElementById("use").append(make("figure", {},
      make("figcaption", {}, make("b", {}, ends ? "last token (tells items apart)" : `position ${position + 1}`),
        ` ${number(used)} of ${number(counts.length)} codes used, ${number(counts.length - used)} dead, perplexity ${perplexity(counts).toFixed(1)}; most used: ${number(sorted[0])} items`),
      svg("svg", {viewBox: "0 0 300 92", role: "img", "aria-label": `items per code at position ${position + 1}`, preserveAspectRatio: "none"},
        svg("polygon", {points: `0,90 ${line} 300,90`}), svg("line", {x1: 0, y1: 90, x2: 300, y2: 90}))));
  }
}

// Ten groups of items, from the most to the least popular: which share of each has how many content tokens. Equally popular
// items are taken by id: rows stand in the order of codes, which knows their lengths.
function lengthByPopularity() {
  const rows = Array.from({length: n}, (_, row) => row).sort((a, b) => data.events[b] - data.events[a] || (data.ids[a] < data.ids[b] ? -1 : 1));
  const groups = Math.min(10, n), lengths = [...new Set(rows.map(contentLength))].sort((a, b) => a - b);
  const target = document.getElementById("lengths");
  if (lengths.length === 1) {
    target.append(make("p", {}, `Every item has ${many(lengths[0], "content token")}.`));
    return;
  }
  target.append(make("p", {class: "legend"}, ...lengths.map((length, which) => make("span", {class: `key length${which % 6}`}, many(length, "token")))));
  for (let group = 0; group < groups; group++) {
    const part = rows.slice(Math.floor(group * n / groups), Math.floor((group + 1) * n / groups));
    const mean = part.reduce((sum, row) => sum + contentLength(row), 0) / part.length;
    const shares = lengths.map(length => part.filter(row => contentLength(row) === length).length / part.length);
    const told = lengths.map((length, which) => `${many(length, "token")}: ${(100 * shares[which]).toFixed(1)} %`);
    const line = make("div", {class: "stack", role: "img", "aria-label": told.join(", ")});
    for (const which of lengths.keys()) {
      const piece = make("span", {class: `length${which % 6}`, title: told[which]});
      piece.style.width = `${100 * shares[which]}%`;
      line.append(piece);
    }
    const most = data.events[part[0]], least = data.events[part[part.length - 1]];
    target.append(make("div", {class: "group"}, make("span", {class: "counts"}, `${number(most)} to ${number(least)} events`), line,
      make("span", {}, `mean ${mean.toFixed(2)}`)));
  }
}

const about = document.getElementById("facts");
for (const [name, text] of Object.entries(data.facts)) {
  const long = text.length > 120;
  about.append(make("dt", {}, name), make("dd", {}, long ? make("details", {}, make("summary", {}, `${text.slice(0, 100)}…`), text) : text));
}
document.getElementById("order").addEventListener("change", event => { order = event.target.value; plant(); });
plant();
codebookUse();
lengthByPopularity();
