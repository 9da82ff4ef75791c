// Draws each chart when it comes near the window. Rows arrive as one list per column. `ast` makes Vega interpret its
// expressions, so that the page's policy can forbid evaluating code.
function rowsOf(columns) {
  const names = Object.keys(columns);
  const count = names.length ? columns[names[0]].length : 0;
  return Array.from({length: count}, (_, i) => Object.fromEntries(names.map((name) => [name, columns[name][i]])));
}

function drawChart(element) {
  if (element.dataset.drawn) return;
  element.dataset.drawn = "yes";
  const spec = JSON.parse(element.nextElementSibling.textContent);
  spec.data = {values: rowsOf(spec.data.columns)};
  vegaEmbed(element, spec, {
    mode: "vega-lite", renderer: "svg", ast: true, logLevel: 1,
    tooltip: {theme: document.documentElement.dataset.theme},
    actions: {export: true, source: false, compiled: false, editor: false},
    downloadFileName: element.dataset.name,
  });
}

const charts = document.querySelectorAll(".chart");
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) { drawChart(entry.target); watcher.unobserve(entry.target); }
}, {rootMargin: "600px"});
charts.forEach((chart) => watcher.observe(chart));
window.addEventListener("beforeprint", () => charts.forEach(drawChart));
