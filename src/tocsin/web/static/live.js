// Parts of a page that keep themselves fresh, and buttons that copy. Without this script everything works, by reloading.
"use strict";
(() => {
  const QUICK = 3000, SLOW = 15000, IDLE_AFTER = 10;
  const watch = (element) => {
    let unchanged = 0, tag = "";
    const look = async () => {
      if (!document.body.contains(element)) return;
      if (document.visibilityState === "visible" && !element.contains(document.activeElement)) {
        try {
          const headers = { "HX-Request": "true" };
          if (tag) headers["If-None-Match"] = tag;
          const answer = await fetch(element.dataset.live, { headers, credentials: "same-origin" });
          if (answer.headers.get("HX-Redirect")) { location.assign(answer.headers.get("HX-Redirect")); return; }
          if (answer.status === 200) {
            tag = answer.headers.get("ETag") || "";
            const fresh = await answer.text();
            if (fresh !== element.innerHTML) { element.innerHTML = fresh; window.htmx?.process(element); }
            unchanged = 0;
          } else { unchanged += 1; }
        } catch { unchanged += 1; }
      }
      setTimeout(look, unchanged > IDLE_AFTER ? SLOW : QUICK);
    };
    setTimeout(look, QUICK);
  };
  const copies = (root) => {
    for (const button of root.querySelectorAll("button[data-copy]")) button.hidden = !navigator.clipboard;
  };
  document.addEventListener("click", async (event) => {
    const button = event.target.closest?.("button[data-copy]");
    if (!button) return;
    await navigator.clipboard.writeText(button.parentElement.querySelector("pre").textContent);
    button.classList.add("copied");
    setTimeout(() => button.classList.remove("copied"), 1500);
  });
  document.addEventListener("htmx:afterSwap", (event) => copies(event.target));
  for (const element of document.querySelectorAll("[data-live]")) watch(element);
  copies(document);
})();
