// Puts what has changed into the page, part by part, so that what is selected, scrolled or focused elsewhere stays.
"use strict";

const connection = document.getElementById("connection");

function say(words, kind) {
  if (connection && connection.textContent !== words) {
    connection.textContent = words;
    connection.className = kind;
  }
}

const partsOf = (page) => [...page.querySelectorAll("[data-part]")];
const known = new Map(partsOf(document).map((part) => [part.id, part.innerHTML]));

function show(html) {
  const next = new DOMParser().parseFromString(html, "text/html");
  const parts = partsOf(next);
  if (parts.map((part) => part.id).join() !== [...known.keys()].join()) {
    location.reload(); // other parts than before: as when a run closes its first round
    return;
  }
  for (const part of parts) {
    // Compared with what was sent before, not with what stands there, which its reader may have changed.
    if (known.get(part.id) !== part.innerHTML) {
      known.set(part.id, part.innerHTML);
      document.getElementById(part.id).innerHTML = part.innerHTML;
    }
  }
  document.title = next.title;
}

const events = new EventSource("events");
events.onmessage = (event) => {
  say("live", "live");
  show(JSON.parse(event.data));
};
events.onopen = () => say("live", "live");
events.onerror = () => say("not connected: this is what was last known", "gone");
