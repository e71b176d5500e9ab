// Zoom and hover for the picture, and the filter of the failures. Everything is there without it.
//
// The numbers stand in #data (report/html/data.rs):
//   buckets   [answered, p50, p99, slowest, [[class, failed]], [[replica, answered]], queue]
//   lives     [replica, [[from, state]]]
//   restarts  [from, duration, replica, round, requests, failed, [[class, failed]]]
//   events    [t, replica, event, source]      failures  [t, class], the first ones if failures_cut is not 0
// Times are milliseconds from the run's zero. Text from outside reaches the page through textContent only.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const figure = document.getElementById("picture");
  if (figure) picture(figure);
  filter(document.getElementById("classes"), document.querySelectorAll("ol.failures li"));
  document.documentElement.dataset.script = "done";

  function picture(figure) {
    const rows = figure.querySelector(".rows");
    const plots = [...rows.querySelectorAll("svg")];
    const axis = rows.querySelector(".axis .plot");
    const cursor = rows.querySelector(".cursor");
    const readout = rows.querySelector(".readout");
    const shown = document.getElementById("shown");
    const details = document.getElementById("restart");
    const moments = plots.map(addMoments);
    const isCut = data.failures_cut > 0;
    let view = { from: data.from, to: data.to };
    let chosen = null;

    figure.querySelector(".toolbar").hidden = false;
    figure.querySelector(".toolbar").addEventListener("click", (event) => {
      const step = event.target.dataset.go;
      if (step === "all") go("all");
      else if (step) choose(neighbour(step) ?? 0);
    });
    document.addEventListener("click", (event) => {
      const link = event.target.closest("a[data-zoom]");
      if (!link) return;
      event.preventDefault();
      choose(Number(link.dataset.zoom) - 1);
      if (!figure.contains(link)) figure.scrollIntoView();
    });
    rows.addEventListener("pointermove", hover);
    rows.addEventListener("pointerdown", press);
    rows.addEventListener("pointerleave", (event) => {
      // A finger that lifts leaves too, and its reader wants to read.
      if (event.pointerType === "mouse") leave();
    });
    rows.addEventListener("click", (event) => {
      if (event.pointerType && event.pointerType !== "mouse" && !event.target.closest("a")) chooseAt(timeAt(event));
    });
    addEventListener("resize", () => show(view.from, view.to));
    addEventListener("hashchange", follow);
    addEventListener("keydown", (event) => {
      if (event.key === "Escape") go("all");
    });
    follow();

    function choose(index) {
      go(`zoom-${index + 1}`);
    }

    function chooseAt(t) {
      const index = data.restarts.findLastIndex(([from, duration]) => from <= t && t <= from + duration);
      if (index >= 0) choose(index);
    }

    // The address may say so already, when a drag has shown something else since: then no event comes.
    function go(place) {
      if (location.hash === `#${place}`) follow();
      else location.hash = place;
    }

    // The restart that a step from the chosen one leads to.
    function neighbour(step) {
      const count = data.restarts.length;
      const from = chosen ?? (step === "previous" ? count : -1);
      const away = step === "previous" ? -1 : 1;
      for (let tried = 1; tried <= count; tried += 1) {
        const index = (((from + away * tried) % count) + count) % count;
        if (step !== "failing" || data.restarts[index][5] > 0) return index;
      }
      return chosen;
    }

    // The address says what is shown: #zoom-3 is the third restart.
    function follow() {
      const match = /^#zoom-(\d+)$/.exec(location.hash);
      const index = match ? Number(match[1]) - 1 : null;
      chosen = index !== null && index < data.restarts.length ? index : null;
      if (chosen === null) {
        show(data.from, data.to);
        shown.textContent = "";
      } else {
        const [from, duration, replica, round, requests, failed] = data.restarts[chosen];
        const margin = Math.max(duration * 0.15, 50);
        show(from - margin, from + duration + margin);
        shown.textContent =
          `restart ${chosen + 1} of ${data.restarts.length + data.restarts_cut}: ${data.replicas[replica]}, round ${round}, ` +
          `${grouped(failed)} of ${grouped(requests)} requests failed`;
      }
      explain();
    }

    // Shows a stretch of the run.
    function show(from, to) {
      view = { from, to };
      const width = Math.max(to - from, 1);
      for (const plot of plots) {
        const [, top, , height] = plot.getAttribute("viewBox").split(" ");
        plot.setAttribute("viewBox", `${from - data.from} ${top} ${width} ${height}`);
      }
      for (const mark of rows.querySelectorAll(".mark")) place(mark);
      axis.replaceChildren(...ticks(from, to).map(tick));
      const inside = data.events.filter(([t]) => t >= from && t <= to);
      const isWhole = from <= data.from && to >= data.to;
      const path = isWhole || inside.length > 60 ? "" : inside.map(([t]) => `M${t - data.from} 0V1000`).join("");
      for (const moment of moments) moment.setAttribute("d", path);
    }

    function place(element) {
      const share = (Number(element.dataset.t) - view.from) / (view.to - view.from);
      element.style.left = `${share * 100}%`;
      element.hidden = share < 0 || share > 1;
      const room = Math.min(share, 1 - share) * axis.clientWidth;
      element.classList.toggle("first", share < 0.5 && room < 22);
      element.classList.toggle("last", share > 0.5 && room < (element.className.includes("mark") ? 48 : 22));
    }

    function tick(t) {
      const label = document.createElement("span");
      label.dataset.t = t;
      label.textContent = view.to - view.from < 3000 ? `${round(t / 1000, 3)} s` : `${round(t / 1000, 2)} s`;
      place(label);
      return label;
    }

    function ticks(from, to) {
      // The steps at most double: there are at least half as many ticks as there may be.
      const most = Math.max(to - from < 3000 ? 6 : 8, axis.clientWidth / 90);
      const magnitude = 10 ** Math.floor(Math.log10((to - from) / most));
      const step = [1, 2, 2.5, 5, 10].map((one) => one * magnitude).find((one) => one >= (to - from) / most);
      const all = [];
      for (let t = Math.ceil(from / step) * step; t < to; t += step) all.push(t);
      return all;
    }

    // What happened in the chosen restart, and how many requests failed between two events.
    function explain() {
      details.hidden = chosen === null;
      for (const row of document.querySelectorAll("#restarts tr[id]")) {
        row.classList.toggle("chosen", chosen !== null && row.id === `restart-${chosen + 1}`);
      }
      if (chosen === null) return;
      const [from, , replica, round_, , failed, byClassOfAll] = data.restarts[chosen];
      const events = data.events.filter(([t]) => t >= view.from && t <= view.to);
      const heading = document.createElement("h3");
      heading.textContent = `${data.replicas[replica]}, round ${round_}: what happened, and what was lost in between`;
      const list = document.createElement("ol");
      const line = (when, text, kind) => {
        const item = document.createElement("li");
        item.className = kind;
        for (const part of [when, text]) {
          const span = document.createElement("span");
          span.textContent = part;
          item.append(span);
        }
        list.append(item);
      };
      const lost = (after, before) => {
        const between = losses(after, before);
        const count = between.reduce((sum, [, , some]) => sum + some, 0);
        if (count) line(`${signed(between[0][0] - from)} ms`, `${isCut ? "about " : ""}${grouped(count)} failed: ${byClass(between)}`, "lost");
      };
      if (failed) line("", `${grouped(failed)} failed in all: ${byClass(byClassOfAll.map(([class_, some]) => [0, class_, some]))}`, "lost");
      lost(view.from, events.length ? events[0][0] : view.to);
      events.forEach(([t, who, event, source], index) => {
        line(`${signed(t - from)} ms`, `${data.replicas[who]}: ${event.replaceAll("_", " ")} (says the ${source})`, "");
        lost(t, index + 1 < events.length ? events[index + 1][0] : view.to);
      });
      if (!events.length) line("", "The events of this restart are in report.json.", "");
      if (isCut) line("", `What was lost in between is counted in stretches of ${round(data.width, 1)} ms.`, "");
      details.replaceChildren(heading, list);
    }

    // What failed in a stretch, [t, class, how many]: one by one where every failure was kept, otherwise by the
    // timeline's buckets, each where its middle lies.
    function losses(after, before) {
      if (!isCut) return data.failures.filter(([t]) => t >= after && t < before).map(([t, class_]) => [t, class_, 1]);
      return data.buckets.flatMap(([, , , , failed], index) => {
        const middle = data.began + (index + 0.5) * data.width;
        return middle >= after && middle < before ? failed.map(([class_, some]) => [middle, class_, some]) : [];
      });
    }

    function byClass(losses) {
      const counts = new Map();
      for (const [, class_, some] of losses) counts.set(class_, (counts.get(class_) ?? 0) + some);
      return [...counts].map(([class_, count]) => `${grouped(count)} ${data.classes[class_]}`).join(", ");
    }

    function timeAt(event) {
      const box = axis.getBoundingClientRect();
      const share = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
      return view.from + share * (view.to - view.from);
    }

    function hover(event) {
      const box = axis.getBoundingClientRect();
      if (event.clientX < box.left || event.clientX > box.right) return leave();
      const left = event.clientX - rows.getBoundingClientRect().left;
      cursor.hidden = readout.hidden = false;
      cursor.style.left = `${left}px`;
      readout.textContent = describe(timeAt(event));
      const isRight = event.clientX - box.left > box.width / 2;
      const room = Math.max(rows.clientWidth - readout.offsetWidth, 0);
      readout.style.left = `${Math.min(Math.max(isRight ? left - readout.offsetWidth - 14 : left + 14, 0), room)}px`;
    }

    function leave() {
      cursor.hidden = readout.hidden = true;
    }

    // Everything that is known of a moment.
    function describe(t) {
      const lines = [`${round(t / 1000, 3)} s`];
      for (const [replica, states] of data.lives) {
        const state = states.findLast(([from]) => from <= t);
        const isGone = !state || (state[1] === "stopped" && data.lives.length > 6);
        if (!isGone) lines.push(`${data.replicas[replica]}: ${state[1]}`);
      }
      const bucket = data.buckets[Math.floor((t - data.began) / data.width)];
      if (bucket) {
        const [answered, p50, p99, slowest, failed, replicas, queue] = bucket;
        lines.push(`in ${round(data.width, 0)} ms: ${answered} answered`);
        for (const [class_, count] of failed) lines.push(`  ${count} ${data.classes[class_]}`);
        if (slowest) lines.push(`latency ${round(p50, 1)} / p99 ${round(p99, 1)} / slowest ${round(slowest, 1)} ms`);
        if (replicas.length) {
          lines.push(`answered by ${replicas.map(([replica, count]) => `${data.replicas[replica]} ${count}`).join(", ")}`);
        }
        if (queue !== null) lines.push(`accept queue at most ${queue}`);
      }
      const near = (view.to - view.from) / 150;
      for (const [at, replica, event] of data.events) {
        if (Math.abs(at - t) <= near) lines.push(`${round(at / 1000, 4)} s: ${data.replicas[replica]} ${event.replaceAll("_", " ")}`);
      }
      return lines.slice(0, 22).join("\n");
    }

    // A drag with the mouse zooms; a click on a restart chooses it.
    function press(event) {
      if (event.pointerType !== "mouse" || event.button !== 0 || event.target.closest("a")) return hover(event);
      const start = { x: event.clientX, t: timeAt(event) };
      const box = document.createElement("div");
      box.className = "selection";
      rows.append(box);
      const origin = rows.getBoundingClientRect().left;
      const move = (moved) => {
        box.style.left = `${Math.min(start.x, moved.clientX) - origin}px`;
        box.style.width = `${Math.abs(moved.clientX - start.x)}px`;
      };
      const done = (ended) => {
        removeEventListener("pointermove", move);
        box.remove();
        const t = timeAt(ended);
        if (Math.abs(ended.clientX - start.x) > 6) {
          chosen = null;
          show(Math.min(start.t, t), Math.max(start.t, t));
          shown.textContent = `${round(view.from / 1000, 2)} s to ${round(view.to / 1000, 2)} s (Esc: whole run)`;
          explain();
        } else {
          chooseAt(t);
        }
      };
      addEventListener("pointermove", move);
      addEventListener("pointerup", done, { once: true });
      event.preventDefault();
    }
  }

  // A dashed line for every event, empty until a stretch with few events is shown.
  function addMoments(plot) {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("class", "moment");
    plot.append(path);
    return path;
  }

  function filter(bar, items) {
    if (!bar) return;
    for (const key of [...bar.children]) {
      const button = document.createElement("button");
      button.type = "button";
      button.title = key.title;
      button.append(key);
      button.addEventListener("click", () => {
        const isOn = button.getAttribute("aria-pressed") === "true";
        for (const other of bar.querySelectorAll("button")) other.setAttribute("aria-pressed", "false");
        button.setAttribute("aria-pressed", String(!isOn));
        for (const item of items) item.hidden = !isOn && item.dataset.class !== key.dataset.class;
      });
      bar.append(button);
    }
  }

  // As the page writes its counts.
  function grouped(number) {
    return number.toLocaleString("en-US");
  }

  function round(number, digits) {
    return String(Number(number.toFixed(digits)));
  }

  function signed(number) {
    return `${number < 0 ? "−" : "+"}${Math.abs(number).toFixed(1)}`;
  }
})();
