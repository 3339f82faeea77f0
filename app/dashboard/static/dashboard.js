"use strict";

// -- times: sent as absolute values, shown relative to now

function ago(seconds) {
  const ahead = seconds < -1;
  const s = Math.abs(seconds);
  if (s < 2) return "now";
  const [size, unit] = s < 60 ? [1, "s"] : s < 3600 ? [60, "min"] : s < 86400 ? [3600, "h"] : [86400, "d"];
  const text = `${Math.floor(s / size)} ${unit}`;
  return ahead ? `in ${text}` : `${text} ago`;
}

function updateTimes() {
  const now = Date.now() / 1000;
  for (const time of document.querySelectorAll("time[data-ago]")) {
    const at = Number(time.dataset.ago);
    const text = ago(now - at);
    if (time.textContent !== text) time.textContent = text;
    if (!time.title) time.title = new Date(at * 1000).toLocaleString();
  }
}

// -- parts that change

function show(parts) {
  for (const [name, html] of Object.entries(parts)) {
    const shown = document.querySelector(`[data-part="${name}"]`);
    if (!shown) continue;
    const template = document.createElement("template");
    template.innerHTML = `<div class="part" data-part="${name}">${html}</div>`;
    morph(shown, template.content.firstElementChild);
  }
  updateTimes();
}

function follow() {
  const source = new EventSource("/live");
  source.addEventListener("parts", (event) => show(JSON.parse(event.data)));
  source.addEventListener("error", () => {
    // A refused stream stays closed: poll for a while, then try the stream again.
    if (source.readyState !== EventSource.CLOSED) return;
    ask(5).then(follow);
  });
  addEventListener("pagehide", () => source.close());
}

async function ask(times) {
  for (let n = 0; n < times; n++) {
    try {
      const answer = await fetch("/parts", { headers: { accept: "application/json" } });
      if (answer.status === 401) return location.reload();
      if (answer.ok) show(await answer.json());
    } catch (error) { /* unreachable: try again next time */ }
    await new Promise((done) => setTimeout(done, 4000));
  }
}

// -- pages that refresh until their object has ended

function refresh() {
  const main = document.querySelector("main[data-refresh]");
  if (!main) return;
  setTimeout(async () => {
    try {
      const answer = await fetch(location.href);
      if (answer.ok && !answer.redirected) {
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        morph(main, page.querySelector("main"));
        document.title = page.title;
        updateTimes();
      }
    } catch (error) { /* unreachable: try again next time */ }
    refresh();
  }, 1000 * Number(main.dataset.refresh));
}

// -- actions without leaving the page

function toast(text, target) {
  const box = document.getElementById("toast");
  box.replaceChildren(document.createTextNode(text));
  if (target && target !== "/") {
    const link = document.createElement("a");
    link.href = target;
    link.textContent = "Show";
    box.append(" ", link);
  }
  box.hidden = false;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => { box.hidden = true; }, 8000);
}

async function act(event) {
  const button = event.submitter;
  event.preventDefault();
  const form = new FormData(event.target);
  if (button.name) form.append(button.name, button.value);
  button.disabled = true;
  try {
    const body = new URLSearchParams(form);
    const answer = await fetch(button.formAction, { method: "POST", body, headers: { accept: "application/json" } });
    const said = await answer.json();
    toast(said.message, said.target);
    if (answer.ok && !document.querySelector("[data-live]")) location.assign(said.target);
  } catch (error) {
    toast("No response from the service. Check whether the action took effect.");
  } finally {
    button.disabled = false;
  }
}

// -- light or dark

function turnTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  try { localStorage.setItem("theme", root.dataset.theme); } catch (error) { /* storage is off */ }
}

document.getElementById("theme").addEventListener("click", turnTheme);
document.getElementById("act")?.addEventListener("submit", act);
if (document.querySelector("[data-live]")) follow();
refresh();
updateTimes();
setInterval(updateTimes, 1000);
