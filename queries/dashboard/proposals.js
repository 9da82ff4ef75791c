// Proposes names of tables and columns beside a text box of Streamlit: Tab takes the first, Escape hides them.
// data: {label: the box's label, tables: {table: [columns]}, fixed: true where only columns of these tables fit}
const SHOWN = 8;

export default function ({ data, parentElement }) {
  const bar = parentElement.querySelector(".names");
  // The box that is typed into: React may put another element into its place, so it is known by its label only.
  let box = null;
  let proposed = [];
  const isOurs = (event) => event.target.getAttribute?.("aria-label") === data.label;

  const wordBefore = () => /[A-Za-z_][A-Za-z0-9_]*$/.exec(box.value.slice(0, box.selectionStart))?.[0] ?? "";

  // Aliases and names of the tables that the statement reads.
  const read = () => {
    const tables = new Map();
    for (const [, name, alias] of box.value.matchAll(/\b(?:from|join)\s+([a-z_0-9]+)(?:\s+(?:as\s+)?([a-z_0-9]+))?/gi)) {
      const columns = data.tables[name.toLowerCase()];
      if (!columns) continue;
      tables.set(name.toLowerCase(), columns);
      if (alias) tables.set(alias.toLowerCase(), columns);
    }
    return tables;
  };

  const candidates = (before, word) => {
    if (data.fixed) return word ? Object.values(data.tables).flat() : [];
    if (/\b(?:from|join)\s+$/i.test(before)) return Object.keys(data.tables);
    const tables = read();
    const owner = /([A-Za-z_0-9]+)\.$/.exec(before)?.[1]?.toLowerCase();
    if (owner) return tables.get(owner) ?? data.tables[owner] ?? [];
    if (!word) return [];
    return [...[...tables.values()].flat(), ...Object.keys(data.tables), ...Object.values(data.tables).flat()];
  };

  const show = () => {
    const word = wordBefore();
    const before = box.value.slice(0, box.selectionStart - word.length);
    const fitting = candidates(before, word).filter((name) => name.startsWith(word.toLowerCase()) && name !== word);
    proposed = [...new Set(fitting)].slice(0, SHOWN);
    bar.replaceChildren(
      ...proposed.map((name, place) => {
        const chip = document.createElement("button");
        chip.type = "button";
        chip.tabIndex = -1;
        chip.textContent = name;
        if (place === 0) chip.title = "Tab";
        chip.addEventListener("pointerdown", (event) => {
          event.preventDefault();
          take(name);
        });
        return chip;
      }),
    );
  };

  const hide = () => {
    proposed = [];
    bar.replaceChildren();
  };

  // The box belongs to React, which learns of a new value by the browser's own setter and an event only.
  const take = (name) => {
    const end = box.selectionStart;
    const start = end - wordBefore().length;
    const prototype = box instanceof HTMLTextAreaElement ? HTMLTextAreaElement.prototype : HTMLInputElement.prototype;
    const written = box.value.slice(0, start) + name + box.value.slice(end);
    Object.getOwnPropertyDescriptor(prototype, "value").set.call(box, written);
    box.dispatchEvent(new Event("input", { bubbles: true }));
    box.focus();
    box.setSelectionRange(start + name.length, start + name.length);
    hide();
  };

  const typed = (event) => {
    if (!isOurs(event)) return;
    box = event.target;
    show();
  };

  const pressed = (event) => {
    if (!isOurs(event)) return;
    if (proposed.length === 0 || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    if (event.key === "Tab") {
      event.preventDefault();
      take(proposed[0]);
    } else if (event.key === "Escape") {
      hide();
    }
  };

  const left = (event) => {
    if (isOurs(event)) hide();
  };

  const heard = { input: typed, keydown: pressed, focusout: left };
  for (const [name, listener] of Object.entries(heard)) document.addEventListener(name, listener, true);
  return () => {
    for (const [name, listener] of Object.entries(heard)) document.removeEventListener(name, listener, true);
  };
}
