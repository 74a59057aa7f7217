// The numbers beside the stream.
(() => {
  "use strict";

  const GAP_MS = 500;
  const place = (name) => document.querySelector(`[data-fact="${name}"]`);

  async function ask() {
    try {
      const facts = await (await fetch("/facts", {cache: "no-store"})).json();
      place("fps").textContent = `${facts.fps.toFixed(1)} frames a second`;
      place("latency").textContent = `${Math.round(facts.latency_ms)} ms behind the camera`;
      place("people").textContent = facts.people === 1 ? "1 person or hand" : `${facts.people} people and hands`;
      place("state").textContent = facts.state;
    } catch {
      place("state").textContent = "stopped";
    }
    setTimeout(ask, GAP_MS);
  }

  ask();
})();
