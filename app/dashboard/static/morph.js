// Update one element to match another, keeping what did not change: focus, selection, open details, clicks in progress.
"use strict";

function morph(from, to) {
  morphAttributes(from, to);
  morphChildren(from, to);
}

function morphAttributes(from, to) {
  const kept = from.hasAttribute("data-keep") ? ["open"] : [];
  for (const { name } of [...from.attributes])
    if (!to.hasAttribute(name) && !kept.includes(name)) from.removeAttribute(name);
  for (const { name, value } of to.attributes)
    if (from.getAttribute(name) !== value) from.setAttribute(name, value);
}

function morphChildren(from, to) {
  const keyed = new Map();
  for (const child of from.children)
    if (child.dataset.key !== undefined) keyed.set(child.dataset.key, child);
  let at = from.firstChild;
  for (const wanted of [...to.childNodes]) {
    const key = wanted.dataset ? wanted.dataset.key : undefined;
    const known = key === undefined ? at : keyed.get(key);
    if (known && alike(known, wanted)) {
      if (known !== at) from.insertBefore(known, at);
      if (known.nodeType === Node.ELEMENT_NODE) morph(known, wanted);
      else if (known.nodeValue !== wanted.nodeValue) known.nodeValue = wanted.nodeValue;
      at = known.nextSibling;
    } else {
      from.insertBefore(wanted.cloneNode(true), at);
    }
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function alike(a, b) {
  if (a.nodeType !== b.nodeType || a.nodeName !== b.nodeName) return false;
  return a.nodeType !== Node.ELEMENT_NODE || a.dataset.key === b.dataset.key;
}
