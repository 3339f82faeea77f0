"use strict";
// Plays a sound once for each new alert, if turned on in this browser.

const heard = new Set();
let sound = null;

function wanted() {
  try { return localStorage.getItem("sound") === "on"; } catch (error) { return false; }
}

function beep(_names) {
  sound = sound || new AudioContext();
  for (const [at, pitch] of [[0, 880], [0.25, 660], [0.5, 880]]) {
    const tone = sound.createOscillator(), volume = sound.createGain();
    tone.frequency.value = pitch;
    volume.gain.value = 0.15;
    tone.connect(volume).connect(sound.destination);
    tone.start(sound.currentTime + at);
    tone.stop(sound.currentTime + at + 0.2);
  }
}

function listen() {
  const firing = new Set([...document.querySelectorAll("[data-alert]")].map((shown) => shown.dataset.alert));
  const begun = [...firing].filter((name) => !heard.has(name));
  heard.clear();
  firing.forEach((name) => heard.add(name));
  if (begun.length && wanted()) beep(begun);
  const button = document.getElementById("sound");
  if (button && button.getAttribute("aria-pressed") !== String(wanted())) button.setAttribute("aria-pressed", String(wanted()));
}

document.addEventListener("click", (event) => {
  if (event.target.id !== "sound") return;
  try { localStorage.setItem("sound", wanted() ? "off" : "on"); } catch (error) { /* storage is off */ }
  if (wanted()) beep();
  listen();
});

const place = document.querySelector('[data-part="alerts"]');
if (place) {
  new MutationObserver(listen).observe(place, { childList: true, subtree: true, attributes: true, attributeFilter: ["data-alert", "aria-pressed"] });
  listen();
}
