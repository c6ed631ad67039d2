// Chinese for browsers that prefer it, or whoever pressed the switch. English is what the page is written in and the key
// to the dictionary; {} stands for what changes, and is looked up by itself, {n} for a number. Nothing on the server knows.
(texts, nouns) => {
  const wanted = localStorage.getItem("language") ?? navigator.language;
  const chinese = wanted.toLowerCase().startsWith("zh");
  const other = document.querySelector("#language");
  if (other) [other.textContent, other.lang] = chinese ? ["English", "en"] : ["中文", "zh"];
  document.addEventListener("click", (event) => {
    if (!event.target.closest?.("#language")) return;
    localStorage.setItem("language", chinese ? "en" : "zh");
    location.reload();
  });
  if (!chinese) return;
  document.documentElement.lang = "zh";

  // Words of visitors and of models, and what was measured, stay as they are.
  const OURS = "[translate=no], textarea, script, style, code, cite, .user, .writing, .gated, #examples button, #gallery button, #questions button";
  const ATTRIBUTES = ["placeholder", "title", "aria-label", "alt"];

  const plain = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  const fixed = new Map(), open = [];
  for (const [english, translation] of Object.entries(texts))
    if (!/\{n?\}/.test(english)) fixed.set(english, translation);
    else open.push([RegExp(`^${plain(english).replaceAll("\\{\\}", "(.+?)").replaceAll("\\{n\\}", "([\\d.,]+)")}$`, "s"), translation, english.length]);
  open.sort((a, b) => b[2] - a[2]); // the most particular first

  const whole = (text) => {
    if (fixed.has(text)) return fixed.get(text);
    for (const [pattern, translation] of open) {
      const [, ...parts] = pattern.exec(text) ?? [];
      const listed = (text) => text.split(", ").map((each) => whole(each) ?? each).join(", ");
      const part = (at) => nouns[parts[at]] ?? known(parts[at]) ?? listed(parts[at]);
      let next = 0;
      if (parts.length) return translation.replace(/\{(\d?)\}/g, (_, at) => part(at || next++));
    }
  };
  const known = (text) => {
    const found = whole(text);
    if (found !== undefined) return found;
    if (text.includes(" \u00b7 ")) return text.split(" \u00b7 ").map((each) => known(each) ?? each).join(" \u00b7 ");
    const sentences = text.split(/(?<=[.!?:]) /);
    const told = sentences.map((sentence) => whole(sentence) ?? sentence);
    return told.some((sentence, at) => sentence !== sentences[at]) ? told.join("") : undefined;
  };
  const translated = (text) => {
    const bare = text.trim().replace(/\s+/g, " ");
    const found = /[A-Za-z]/.test(bare) ? known(bare) : undefined;
    return found === undefined ? text : text.replace(text.trim(), () => found);
  };

  const say = (owner, name, text) => {
    const now = text && translated(text);
    if (now && now !== text) name ? owner.setAttribute(name, now) : (owner.data = now);
  };
  const visit = (node) => {
    if (node.nodeType === Node.TEXT_NODE) {
      if (!node.parentElement?.closest(OURS)) say(node, "", node.data);
    } else if (node.nodeType === Node.ELEMENT_NODE) {
      if (node.matches("[translate=no], script, style")) return;
      for (const name of ATTRIBUTES) if (node.hasAttribute(name)) say(node, name, node.getAttribute(name));
      node.childNodes.forEach(visit);
    }
  };
  // A chosen option is shown as the value of a field, which is no text of the document.
  const fields = () => {
    for (const field of document.querySelectorAll("input[role=combobox]"))
      if (field !== document.activeElement && translated(field.value) !== field.value) field.value = translated(field.value);
  };
  new MutationObserver((changes) => {
    for (const { type, target, attributeName, addedNodes } of changes)
      if (type === "childList") addedNodes.forEach(visit);
      else if (type === "characterData") visit(target);
      else if (!target.closest("[translate=no]")) say(target, attributeName, target.getAttribute(attributeName));
    fields();
  }).observe(document.body, { subtree: true, childList: true, characterData: true, attributeFilter: ATTRIBUTES });
  document.addEventListener("focusout", () => setTimeout(fields, 50));
  visit(document.body);
  fields();
}
