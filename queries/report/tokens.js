// The panel beside the tokens: follows the pointer, or the focus, which the arrow keys move. Text is only ever set as
// text, never as HTML.
const textOf = JSON.parse(document.getElementById("texts")?.textContent ?? "{}");
const number = (value, digits = 4) => (value === null || value === undefined ? "\u2013" : String(+value.toPrecision(digits)));
const share = (value) => (value === null ? "\u2013" : value < 0.0005 ? "< 0.1 %" : (100 * value).toFixed(1) + " %");

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function facts(data, i) {
  const step = data.step[i];
  const place = "position " + data.position[i] + (step === null ? ", prompt" : ", step " + step);
  const list = element("dl", "token-facts");
  const pairs = [
    ["logprob", number(data.logprob[i]) + " nats"], ["surprisal", number(data.surprisal_bits[i]) + " bits"],
    ["entropy", number(data.entropy_bits[i]) + " bits"], ["rank", data.rank[i] === null ? "\u2013" : String(data.rank[i])],
    ["margin", number(data.margin[i], 3)], ["token id", String(data.token_id[i])],
  ];
  const known = data.entropy_bits[i] !== null || data.logprob[i] !== null;
  for (const [name, value] of known ? pairs : pairs.slice(-1)) list.append(element("dt", "", name), element("dd", "", value));
  return [element("div", "token-name", data.token[i] || "\u2205"), element("div", "token-place", place), list];
}

function candidates(data, i) {
  const ids = data.topk[i];
  if (!ids || !ids.length) {
    const why = data.entropy_bits[i] === null ? "Nothing predicted this token, or its distribution was not kept." : "";
    return [element("p", "token-none", why)];
  }
  const table = element("div", "candidates");
  ids.forEach((id, k) => {
    const row = element("div", id === data.token_id[i] ? "candidate chosen" : "candidate");
    const bar = element("span", "bar");
    bar.append(Object.assign(element("span", "fill"), {style: "width:" + 100 * (data.probs[i][k] ?? 0) + "%"}));
    row.append(element("span", "word", textOf[id] ?? "#" + id), bar, element("span", "prob", share(data.probs[i][k])));
    table.append(row);
  });
  if (!ids.includes(data.token_id[i])) {
    table.append(element("div", "token-none", "The token itself is not among these " + ids.length + "."));
  }
  return [element("div", "token-heading", "most probable instead, or chosen"), table];
}

function tokenView(view) {
  const data = JSON.parse(view.querySelector(".token-data").textContent);
  const panel = view.querySelector(".token-panel");
  const spans = [...view.querySelectorAll(".token")];
  let focused = 0;
  const show = (i) => {
    const first = Number(spans[i].dataset.first), count = Number(spans[i].dataset.count ?? 1);
    const parts = count > 1 ? [element("div", "token-heading", "One character, written with " + count + " tokens")] : [];
    for (let k = first; k < first + count; k += 1) parts.push(...facts(data, k), ...candidates(data, k));
    panel.replaceChildren(...parts);
    spans.forEach((span, k) => span.classList.toggle("current", k === i));
  };
  const focus = (i) => {
    if (i < 0 || i >= spans.length) return;
    spans[focused].tabIndex = -1;
    focused = i;
    spans[i].tabIndex = 0;
    spans[i].focus({preventScroll: false});
  };
  const steps = {ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10};
  const text = view.querySelector(".token-text");
  text.addEventListener("keydown", (event) => {
    if (event.key in steps) focus(Math.min(spans.length - 1, Math.max(0, focused + steps[event.key])));
    else if (event.key === "Home") focus(0);
    else if (event.key === "End") focus(spans.length - 1);
    else return;
    event.preventDefault();
  });
  const indexOf = (event) => spans.indexOf(event.target.closest(".token"));
  text.addEventListener("focusin", (event) => { const i = indexOf(event); if (i >= 0) show(i); });
  text.addEventListener("pointerover", (event) => { const i = indexOf(event); if (i >= 0) show(i); });
  text.addEventListener("pointerleave", () => show(focused));
  text.addEventListener("click", (event) => { const i = indexOf(event); if (i >= 0) focus(i); });
  for (const button of view.querySelectorAll("[data-by]")) {
    button.addEventListener("click", () => {
      view.dataset.by = button.dataset.by;
      view.querySelectorAll("[data-by]").forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
    });
  }
  if (spans.length) { focused = Number(view.dataset.start) || 0; spans[focused].tabIndex = 0; show(focused); }
}

document.querySelectorAll(".token-view").forEach(tokenView);
