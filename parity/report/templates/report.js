"use strict";
// What the page does: it filters the table, keeps the filter in the address, and builds a case's details when it opens.
(() => {
  const byId = (id) => document.getElementById(id);
  const rows = [...document.querySelectorAll("tr.case")];
  const boxes = [...document.querySelectorAll("#filters input[type=checkbox]")];
  const search = byId("search");
  const summaryOf = (row) => row.querySelector("summary");
  const labels = rows.map((row) => summaryOf(row).firstChild?.textContent ?? "");

  // Text goes in as text nodes and attributes only, never as markup: names may be hostile.
  const element = (tag, attributes = {}, ...children) => {
    const svg = tag === "svg" || tag === "rect" || tag === "title";
    const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children.filter((child) => child !== null && child !== ""));
    return made;
  };

  // ---- data: the cases as lines of JSON, each parsed when it is needed
  let lines = null;
  const caseOf = (row) => {
    lines ??= byId("data").textContent.trim().split("\n");
    return JSON.parse(lines[rows.indexOf(row) + 1].replace(/,$/, ""));
  };

  // ---- numbers in words
  const short = (x) => (typeof x === "number" ? ((x !== 0 && Math.abs(x) < 1e-3) || Math.abs(x) >= 1e5 ? x.toExponential(1) : String(Number(x.toPrecision(3)))) : x ?? "–");
  const long = (x) => (typeof x === "number" ? String(Number(x.toPrecision(9))) : x ?? "–");
  const ratio = (x) => (typeof x === "number" ? (x < 100 ? x.toFixed(2) : short(x)) : x);
  const count = (n) => n.toLocaleString("en");

  // ---- the heat map
  const BOUND = 8; // the level of "i", whose blocks reach the bound
  const level = (letter) => (letter === "." ? -1 : letter.charCodeAt(0) - 97);
  const colour = (n) => {
    if (n < 0) return "var(--cell)";
    if (n === 25) return "var(--odd)";
    if (n <= BOUND) return `color-mix(in oklab, var(--cool) ${8 + 10 * n}%, var(--cell))`;
    return `color-mix(in oklab, var(--hot) ${Math.round((100 * (n - BOUND - 1)) / 15)}%, var(--warm))`;
  };
  const blockWords = (n) => {
    if (n < 0) return "no error";
    if (n === 25) return "NaN or an infinity in the wrong place";
    if (n === 24) return `more than ${count(2 ** 15)} times the bound`;
    const times = n <= BOUND ? (n === BOUND ? "1" : `1/${2 ** (BOUND - n)}`) : count(2 ** (n - BOUND));
    return `at most ${times} times the bound`;
  };
  const heatMap = (picture) => {
    const grid = picture.grid.map((row) => [...row].map(level));
    const [height, width] = [grid.length, grid[0].length];
    const [w, h] = [width, height].map((n) => Math.max(8, Math.min(20, Math.floor(190 / n))));
    const perGroup = height / picture.groups;
    const top = (r) => r * h + (picture.groups > 1 ? 4 * Math.floor(r / perGroup) : 0);
    const peak = Math.max(...grid.flat());
    const r0 = grid.findIndex((row) => row.includes(peak));
    const c0 = grid[r0].indexOf(peak);
    const words = `Heat map of error / bound in ${height} by ${width} blocks of ${picture.folded}; the largest, `
      + `${blockWords(peak)}, in block row ${r0 + 1}, column ${c0 + 1}`;
    const [W, H] = [width * w + 4, top(height - 1) + h + 4];
    const svg = element("svg", { class: "heat", role: "img", "aria-label": words, width: W, height: H, viewBox: `-2 -2 ${W} ${H}` });
    grid.forEach((row, r) => row.forEach((n, c) => svg.append(
      element("rect", { x: c * w, y: top(r), width: w, height: h, style: `fill:${colour(n)}` },
        element("title", {}, `block row ${r + 1}, column ${c + 1}: ${blockWords(n)}`)))));
    if (peak >= 0) svg.append(element("rect", { class: "peak", x: c0 * w, y: top(r0), width: w, height: h }));
    return svg;
  };
  const legend = () => {
    const item = (n, words) => element("span", {}, element("i", { style: `background:${colour(n)}` }), words);
    return element("p", { class: "legend" }, "Error / bound:", item(-1, "none"), item(0, "≤ 1/256"), item(4, "1/16"), item(6, "1/4"),
      item(8, "1, the bound"), item(9, "2"), item(14, "64"), item(19, "2,048"), item(24, "> 32,768"), item(25, "NaN, ∞"));
  };

  // ---- the histogram
  const power = (k) => (k < 0 ? `1/${2 ** -k}` : k <= 10 ? String(2 ** k) : `2${[...String(k)].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]).join("")}`);
  const histogram = (picture) => {
    const counts = picture.histogram;
    const keys = Object.keys(counts).filter((key) => key !== "exact" && key !== "nan").map(Number);
    const bins = [];
    if (counts.exact) bins.push(["exact", "0", "exact"]);
    if (keys.length) {
      const [low, high] = [Math.min(...keys), Math.max(...keys)];
      const every = high - low > 11 ? 4 : 2;
      for (let k = low; k <= high; k += 1) {
        const words = k === -4 ? "at most 1/16 ulp" : `above ${power(k - 1)}${k === 30 ? "" : `, at most ${power(k)}`} ulp`;
        bins.push([k, (k - low) % every ? "" : power(k), words]);
      }
    }
    if (counts.nan) bins.push(["nan", "NaN", "NaN or an infinity in the wrong place"]);
    const top = Math.log1p(Math.max(1, ...Object.values(counts)));
    const told = bins.filter(([key]) => counts[key]).map(([key, , words]) => `${words}: ${count(counts[key])}`);
    const bars = bins.map(([key, label, words]) => {
      const n = counts[key] ?? 0;
      return element("div", { title: `${words}: ${count(n)}`, class: key === "nan" ? "odd" : "" },
        element("i", { style: `--part:${Math.log1p(n) / top}` }), element("span", {}, label));
    });
    return element("div", {},
      element("div", { class: "histogram", role: "img", "aria-label": `Histogram of errors in ulps. ${told.join("; ")}` }, ...bars),
      element("p", { class: "axis", "aria-hidden": "true" }, "error in ulps, at most"));
  };

  // ---- a case
  const copyButton = (code) => {
    const button = element("button", { type: "button", "aria-label": "Copy the command" }, "Copy");
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch { // no clipboard for this page: select it, so that a key copies it
        getSelection().selectAllChildren(code);
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
    return button;
  };
  const facts = (pairs) => element("dl", { class: "facts" },
    ...pairs.filter(([, words]) => words).map(([name, words]) => element("div", {}, element("dt", {}, name), element("dd", {}, words))));
  const bar = (quantity) => {
    const x = quantity.bound_ratio;
    const fill = typeof x === "number" ? Math.min(100, 100 * x) : 100;
    return element("span", { class: `bar ${quantity.status}`, "aria-hidden": "true" }, element("i", { style: `width:${fill}%` }));
  };
  const HEADINGS = ["Quantity", "Status", "Error / bound", "Error", "Reference’s", "Beyond", "Worst at", "Candidate", "Reference", "Truth", "Bound"];
  const quantities = (found) => {
    const head = element("tr", {}, ...HEADINGS.map((words, n) => element("th", { scope: "col", ...(n > 1 && { class: "number" }) }, words)));
    const body = found.quantities.map((q) => {
      const cell = (...words) => element("td", { class: "number" }, ...words);
      return element("tr", {},
        element("th", { scope: "row" }, q.quantity, q.reason && !/^\d+ of \d+ beyond/.test(q.reason) ? element("span", { class: "why" }, q.reason) : null),
        element("td", {}, element("span", { class: `status ${q.status}` }, q.status)),
        cell(bar(q), ratio(q.bound_ratio)), cell(short(q.max_error)), cell(short(q.reference_error)),
        cell(q.elements ? `${count(q.mismatched)} of ${count(q.elements)}` : "–"),
        cell(q.worst_index ? `[${q.worst_index.join(", ")}]` : "–"),
        cell(long(q.candidate)), cell(long(q.reference)), cell(long(q.truth)), cell(short(q.bound)));
    });
    return element("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": "Quantities" },
      element("table", {}, element("thead", {}, head), element("tbody", {}, ...body)));
  };
  const MOST_PICTURES = 12; // at once: a model has hundreds of parameters, each with a gradient
  const badness = (q) => (typeof q.bound_ratio === "number" ? q.bound_ratio : Infinity);
  const pictures = (found) => {
    const drawn = found.quantities.filter((q) => q.picture);
    if (!drawn.length) return [];
    const figure = (q) => element("figure", {},
      element("figcaption", {}, element("strong", {}, q.quantity), ` ${q.picture.folded}`),
      element("div", { class: "pair" }, heatMap(q.picture), histogram(q.picture)));
    const worst = new Set([...drawn].sort((a, b) => badness(a) < badness(b) ? 1 : badness(a) > badness(b) ? -1 : 0).slice(0, MOST_PICTURES));
    const grid = element("div", { class: "pictures" }, ...drawn.filter((q) => worst.has(q)).map(figure));
    const rest = drawn.filter((q) => !worst.has(q));
    const more = element("button", { type: "button" }, `Draw the other ${count(rest.length)}`);
    more.addEventListener("click", () => { grid.append(...rest.map(figure)); more.remove(); });
    return [element("h3", {}, "Where the error sits"), legend(), grid, rest.length ? element("p", {}, more) : null];
  };
  const details = (found) => {
    const code = element("code", {}, found.command);
    const first = found.notes.filter((note) => /^first divergence/i.test(note));
    const notes = found.notes.filter((note) => !first.includes(note));
    return element("div", { class: "details" },
      facts([
        ["Likely cause", found.cause ? element("strong", {}, found.cause) : ""],
        ["Reason", found.reason],
        ...first.map((note) => ["First divergence", note.replace(/^first divergence:?\s*/i, "")]),
        ...notes.map((note) => ["Note", note]),
        ["Candidate", `${found.candidate}, implementation ${found.implementation}, ${found.device}`],
        ["Reference", found.reference],
        ["Case", `${found.dtype}, seed ${found.seed}, ${found.seconds.toFixed(2)} s`],
        ["Again", element("span", { class: "command" }, code, copyButton(code))],
      ]),
      ...(found.quantities.length ? [element("h3", {}, "Numbers at the worst element"), quantities(found)] : []),
      ...pictures(found));
  };
  const detailRow = (row) => (row.nextElementSibling?.classList.contains("open") ? row.nextElementSibling : null);
  const open = (row) => {
    if (detailRow(row)) return;
    const columns = [...row.cells].filter((cell) => cell.offsetWidth).length || row.cells.length; // a phone shows fewer
    row.after(element("tr", { class: "open" }, element("td", { colspan: columns }, details(caseOf(row)))));
  };

  // Laying out a thousand rows takes longer than all the rest: a hundred at a time, after the first can be read.
  const later = () => [...document.querySelectorAll("tbody.later")];
  const layOut = () => {
    later()[0]?.classList.remove("later");
    if (later().length) setTimeout(layOut, 0);
  };

  // ---- the filter, in the address as #status=failed,error&text=…&case=…
  const apply = () => {
    const wanted = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    const text = search.value.trim().toLowerCase();
    let n = 0;
    for (const row of rows) {
      const hidden = !wanted.has(row.dataset.status) || (text !== "" && !row.textContent.toLowerCase().includes(text));
      if (row.hidden !== hidden) row.hidden = hidden;
      const below = detailRow(row);
      if (below) below.hidden = hidden;
      n += hidden ? 0 : 1;
    }
    byId("shown").textContent = n === rows.length ? `${count(n)} ${n === 1 ? "case" : "cases"}` : `${count(n)} of ${count(rows.length)} cases shown`;
    byId("none").hidden = n > 0 || rows.length === 0;
  };
  const keep = () => {
    const state = new URLSearchParams();
    if (boxes.some((box) => !box.checked)) state.set("status", boxes.filter((box) => box.checked).map((box) => box.value).join(","));
    if (search.value) state.set("text", search.value);
    const last = rows.findLastIndex((row) => detailRow(row));
    if (last >= 0) state.set("case", labels[last]);
    history.replaceState(null, "", `#${state}`);
  };
  const restore = () => {
    const state = new URLSearchParams(location.hash.slice(1));
    const statuses = state.get("status")?.split(",");
    for (const box of boxes) box.checked = statuses === undefined || statuses.includes(box.value);
    search.value = state.get("text") ?? "";
    apply();
    const row = rows[labels.indexOf(state.get("case"))];
    if (row) {
      for (const part of later()) part.classList.remove("later");
      row.querySelector("details").open = true;
      open(row);
      if (row.getBoundingClientRect().top > innerHeight / 2) row.scrollIntoView();
    }
  };

  byId("filters").hidden = false;
  byId("filters").addEventListener("input", () => { apply(); keep(); });
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("reset").addEventListener("click", () => { location.hash = ""; search.focus(); });
  byId("table").addEventListener("toggle", (event) => {
    const row = event.target.closest("tr.case");
    if (event.target.open) open(row); else detailRow(row)?.remove();
    keep();
  }, true); // `toggle` does not bubble
  addEventListener("hashchange", restore);
  addEventListener("keydown", (event) => {
    if (event.key === "/" && event.target.tagName !== "INPUT") { event.preventDefault(); search.focus(); }
    if (event.key === "Escape" && event.target === search) { search.value = ""; apply(); keep(); }
  });
  restore();
  addEventListener("load", () => {
    document.body.getBoundingClientRect(); // layout is done here, not after the measurement
    document.documentElement.dataset.readyMs = Math.round(performance.now());
    setTimeout(layOut, 0);
  });
})();
