// Figures as SVG, PNG and CSV, tables as CSV: made on the page, with no request.
(() => {
  "use strict";
  const { make, plain, unpacked } = window.xmi;
  const safe = (text) => text.trim().replace(/[^\w.-]+/g, "-").replace(/^-+|-+$/g, "") || "table";
  const save = (name, blob) => {
    const href = URL.createObjectURL(blob);
    make("a", { href, download: safe(name) }).click();
    setTimeout(() => URL.revokeObjectURL(href), 10000);
  };
  // Text that a spreadsheet would take for a formula has an apostrophe in front, as in the tables of a run.
  const field = (value) => {
    if (value === null || value === undefined) return "";
    const text = typeof value === "string" && /^\s*[=+\-@]/.test(value) && Number.isNaN(Number(value)) ? `'${value}` : String(value);
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const csv = (rows) => new Blob([rows.map((row) => `${row.map(field).join(",")}\n`).join("")], { type: "text/csv" });

  // --- figures ---
  const near = (a, b) => Math.abs(a - b) < 0.005;
  const partOf = (plot, trace) => { // the heading of the part of the figure that a trace stands in
    const [x, y] = ["x", "y"].map((axis) => plot._fullLayout[(trace[`${axis}axis`] ?? axis).replace(axis, `${axis}axis`)]?.domain);
    const heading = x && y && (plot.layout.annotations ?? []).find((a) => a.yref === "paper" && near(a.x, x[0]) && near(a.y, y[1]));
    return heading ? plain(heading.text) : "";
  };
  const shown = (value) => (typeof value === "string" ? plain(value.replaceAll("<br>", " ")) : value);
  const said = (value) => (Array.isArray(value) ? value.map(shown).join("; ") : typeof value === "string" ? shown(value) : "");
  const named = (plot, trace, name, value) => { // rows that are numbered have their names on the ticks
    const axis = plot._fullLayout[(trace[`${name}axis`] ?? name).replace(name, `${name}axis`)];
    const rows = axis?.ticktext && axis.tickvals?.every((tick, i) => tick === i);
    return shown((rows && axis.ticktext[Math.round(value)]) || value);
  };
  const rowsOf = (plot) => {
    const rows = [["part", "series", "x", "y", "value", "low", "high", "says"]];
    for (const trace of plot.data) {
      const head = [partOf(plot, trace), said(trace.name ?? "")];
      if (trace.z) trace.z.forEach((line, i) => line.forEach((value, k) => rows.push([...head, named(plot, trace, "x", trace.x?.[k] ?? k), named(plot, trace, "y", trace.y?.[i] ?? i), value, "", "", said(trace.customdata?.[i]?.[k])])));
      if (trace.z || !trace.x || trace.fill === "toself" || trace.mode === "text") continue; // areas and names repeat what lines say
      const error = trace.error_x?.array ? [trace.error_x, trace.x] : trace.error_y?.array ? [trace.error_y, trace.y] : null;
      trace.x.forEach((x, i) => {
        const ends = error ? [error[1][i] - (error[0].arrayminus ?? error[0].array)[i], error[1][i] + error[0].array[i]] : ["", ""];
        rows.push([...head, named(plot, trace, "x", x), named(plot, trace, "y", trace.y[i]), "", ...ends, said(trace.customdata?.[i]) || said(trace.hovertext?.[i])]);
      });
    }
    return rows.map((row) => row.map((v) => (typeof v === "number" ? Number(v.toPrecision(6)) : v)));
  };
  const picture = async (plot, title, format) => {
    const top = 40;
    const layout = structuredClone(plot.layout);
    const figure = { data: structuredClone(plot.data), layout: {
      ...layout,
      title: { text: title.replaceAll("&", "&amp;").replaceAll("<", "&lt;"), font: { size: 15 }, x: 0, xanchor: "left", pad: { l: 12 } },
      margin: { ...layout.margin, t: layout.margin.t + top },
    } };
    const url = await Plotly.toImage(figure, { format, width: plot.clientWidth, height: plot._fullLayout.height + top, scale: format === "png" ? 2 : 1 });
    const comma = url.indexOf(",");
    const body = url.slice(comma + 1);
    const content = url.slice(0, comma).endsWith("base64") ? Uint8Array.from(atob(body), (c) => c.charCodeAt(0)) : decodeURIComponent(body);
    return new Blob([content], { type: format === "png" ? "image/png" : "image/svg+xml" });
  };
  const button = (text, label, act) => {
    const node = make("button", { type: "button", textContent: text });
    node.setAttribute("aria-label", label);
    node.addEventListener("click", act);
    return node;
  };
  for (const plot of document.querySelectorAll(".panel .plot")) {
    const title = plot.getAttribute("aria-label");
    const name = (ending) => `${title.replace(": ", " ")}.${ending}`;
    const pictures = ["SVG", "PNG"].map((kind) =>
      button(kind, `${kind} of ${title}`, async () => save(name(kind.toLowerCase()), await picture(plot, title, kind.toLowerCase()))));
    const numbers = button("CSV", `CSV of ${title}`, () => save(name("csv"), csv(rowsOf(plot))));
    const link = make("a", { href: `#${plot.closest(".panel").id}`, textContent: "link" });
    plot.after(make("div", { className: "save" }, ...pictures, numbers, link));
  }

  // --- tables: those of the run as they are stored, others as they stand on the page ---
  const stored = document.getElementById("tables");
  const cells = (row) => [...row.cells].flatMap((cell) => [cell.innerText.replace(/\s+/g, " ").trim(), ...Array(cell.colSpan - 1).fill("")]);
  for (const table of document.querySelectorAll("main table")) {
    const box = table.closest(".scroll") ?? table;
    const label = box.getAttribute("aria-label") ?? "table";
    box.after(make("div", { className: "save" }, button("CSV", `CSV of ${label}`, async () => {
      const name = table.dataset.table;
      const text = name && stored ? (await unpacked(stored).json())[name] : null;
      save(`${label}.csv`, text ? new Blob([text], { type: "text/csv" }) : csv([...table.rows].map(cells)));
    })));
  }
})();
