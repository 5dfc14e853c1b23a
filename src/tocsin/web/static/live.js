// Parts of a page that keep themselves fresh, the drawer of the log, previews, forms that are sent once, and buttons that copy. Without
// this script everything works, by reloading.
"use strict";
(() => {
  const QUICK = 3000, SLOW = 15000, IDLE_AFTER = 10, PAUSE = 400;
  const LEAVING = 10000, DOUBLE_CLICK = 1000;  // ms in which a form is not sent again: until the next page has loaded; if it stays on the page
  const FRAGMENT = { headers: { "HX-Request": "true" }, credentials: "same-origin" };

  // ------------------------------------------------------------------------------------------------- what becomes HTML
  // Fragments of our own pages do. htmx parses what it fetches into documents that run nothing; no other text becomes HTML or a script.
  const own = window.trustedTypes?.createPolicy("tocsin", { createHTML: (text) => text });
  window.trustedTypes?.createPolicy("default", { createHTML: (text, _, sink) => /\bparse/.test(sink) ? text : null });
  const put = (element, text) => { element.innerHTML = own ? own.createHTML(text) : text; };

  // ---------------------------------------------------------------------------------------------------- what is shown
  const shown = (root) => {
    window.htmx?.process(root);
    for (const button of root.querySelectorAll("button[data-copy]")) button.hidden = false;
    for (const element of root.querySelectorAll("[data-live]")) watch(element);
  };

  // Puts fresh content in place of the old; what was open stays open, and a link that had the focus keeps it.
  const replace = (element, fresh) => {
    const focused = element.contains(document.activeElement) ? document.activeElement : null;
    const name = (details) => details.querySelector("summary")?.textContent;
    const open = new Map([...element.querySelectorAll("details")].map((one) => [name(one), one.open]));
    put(element, fresh);
    for (const one of element.querySelectorAll("details")) if (open.has(name(one))) one.open = open.get(name(one));
    shown(element);
    if (focused?.href) {
      const same = [...element.querySelectorAll("a[href]")].find((one) => one.href === focused.href && one.className === focused.className);
      same?.focus({ preventScroll: true });
    }
  };

  const isBusy = (element) => {
    const focused = document.activeElement;
    if (element.contains(focused) && focused !== element && !focused.matches("a[href]")) return true;  // a form, or a text that is read
    const selection = document.getSelection();
    return Boolean(selection && !selection.isCollapsed && element.contains(selection.anchorNode));
  };

  const watch = (element) => {
    if (element.watched) return;
    element.watched = true;
    let unchanged = 0, tag = "";
    const look = async () => {
      if (!document.body.contains(element)) return;
      if (document.visibilityState === "visible" && !isBusy(element)) {
        try {
          const headers = tag ? { ...FRAGMENT.headers, "If-None-Match": tag } : FRAGMENT.headers;
          const answer = await fetch(element.dataset.live, { ...FRAGMENT, headers });
          if (answer.headers.get("HX-Redirect")) { location.assign(answer.headers.get("HX-Redirect")); return; }
          if (answer.status === 200) {
            tag = answer.headers.get("ETag") || "";
            const fresh = await answer.text();
            if (fresh !== element.latest && !isBusy(element)) { replace(element, fresh); element.latest = fresh; }
            unchanged = 0;
          } else { unchanged += 1; }
        } catch { unchanged += 1; }
      }
      setTimeout(look, unchanged > IDLE_AFTER ? SLOW : QUICK);
    };
    setTimeout(look, QUICK);
  };

  // -------------------------------------------------------------------------------------------------------- the drawer
  // A row of the log opens beside it, at an address of its own: Back and Escape close it, and a reload shows it as a page.
  const drawer = document.getElementById("drawer");
  let from = null;  // the address of the link that opened it
  const open = async (href) => {
    const answer = await fetch(href, FRAGMENT).catch(() => null);
    const text = answer?.status === 200 ? await answer.text() : null;
    if (href !== from) return false;  // another one was opened meanwhile
    if (text === null) { location.assign(href); return false; }
    put(drawer, text);
    shown(drawer);
    drawer.querySelector("h1")?.focus({ preventScroll: innerWidth > 900 });
    return true;
  };
  const close = () => {
    drawer.replaceChildren();
    const row = [...document.querySelectorAll("a[data-drawer]")].find((one) => one.getAttribute("href") === from);
    row?.focus();
    from = null;
  };
  if (drawer) {
    document.addEventListener("click", async (event) => {
      const row = event.target.closest?.("a[data-drawer]");
      if (row && event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey && !event.altKey) {
        event.preventDefault();
        const href = from = row.getAttribute("href");
        if (await open(href)) history[history.state?.drawer ? "replaceState" : "pushState"]({ drawer: href }, "", href);
      } else if (event.target.closest?.("[data-close]") && history.state?.drawer) {
        event.preventDefault();
        history.back();
      }
    });
    document.addEventListener("keydown", (event) => { if (event.key === "Escape" && history.state?.drawer) history.back(); });
    addEventListener("popstate", (event) => {
      const wanted = event.state?.drawer;
      if (wanted) { from = wanted; open(wanted); } else if (from !== null) close();
    });
  } else {
    // To the browser a drawer's address and the log are one document, also once it has loaded the former as a page.
    const loaded = location.pathname;
    addEventListener("popstate", () => { if (location.pathname !== loaded) location.reload(); });
  }

  // ------------------------------------------------------------------------------------------------------ the preview
  for (const form of document.querySelectorAll("form[data-preview]")) {
    const place = document.getElementById("previews");
    let timer = 0, asked = null;
    const ask = async () => {
      asked?.abort();
      const mine = asked = new AbortController();
      try {
        const body = new URLSearchParams(new FormData(form));
        const answer = await fetch(form.dataset.preview, { ...FRAGMENT, method: "POST", body, signal: mine.signal });
        if (answer.headers.get("HX-Redirect")) { document.getElementById("signed-out").hidden = false; return; }  // what was written stays
        if (answer.status === 200) { document.getElementById("signed-out").hidden = true; replace(place, await answer.text()); }
      } catch { /* another is asked for, or the service is away: what is shown stays */ }
    };
    form.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(ask, PAUSE); });
    form.addEventListener("submit", () => { clearTimeout(timer); asked?.abort(); });
  }

  // ------------------------------------------------------------------------------------------------- what is sent once
  // A double click sends a form twice, and both are carried out. Before htmx looks at it.
  document.addEventListener("submit", (event) => {
    const form = event.target, now = performance.now();
    if (form.method !== "post") return;
    if (now < form.sentUntil && form.sentBy === event.submitter) { event.preventDefault(); event.stopImmediatePropagation(); return; }
    form.sentUntil = now + (form.matches("[hx-post]") ? DOUBLE_CLICK : LEAVING);
    form.sentBy = event.submitter;
  }, true);
  addEventListener("pageshow", () => { for (const form of document.forms) form.sentUntil = 0; });  // Back shows a page as it was left
  if (document.querySelector("[data-once]")) history.replaceState(history.state, "", location.href);  // so that a reload does not make another

  // ----------------------------------------------------------------------------------------------------- what is copied
  // Over plain HTTP there is no clipboard: the text is selected, so that one key copies it, and the button says so.
  const copied = async (text, element) => {
    try { await navigator.clipboard.writeText(text); return true; } catch { /* there is none, or it is not allowed */ }
    const selection = document.getSelection();
    selection.removeAllRanges();
    const range = document.createRange();
    range.selectNodeContents(element);
    selection.addRange(range);
    try { return document.execCommand("copy"); } catch { return false; }
  };
  document.addEventListener("click", async (event) => {
    const button = event.target.closest?.("button[data-copy]");
    if (!button) return;
    const pre = button.parentElement.querySelector("pre");
    const words = button.dataset.words ??= button.textContent;
    button.textContent = await copied(pre.textContent, pre) ? button.dataset.copied : button.dataset.selected;
    setTimeout(() => { button.textContent = words; }, 4000);
  });

  // ------------------------------------------------------------------------------------------------------ all at once
  document.addEventListener("change", (event) => {
    if (!event.target.matches?.("input[data-all]")) return;
    for (const box of document.querySelectorAll("input.pick")) box.checked = event.target.checked;
  });

  // ------------------------------------------------------------------------------------------------------ the time zone
  // Who has chosen none is shown the browser's: it counts once it is saved.
  for (const input of document.querySelectorAll("input[data-suggested]")) {
    const own = Intl.DateTimeFormat().resolvedOptions().timeZone;
    if (input.value || ![...input.list.options].some((one) => one.value === own)) continue;
    input.value = own;
    document.getElementById(input.dataset.suggested).hidden = false;
  }

  document.addEventListener("htmx:afterSwap", (event) => {
    shown(event.target);
    if (event.target.querySelector(".trial")) document.querySelector(".done")?.remove();  // what it advised has been done
  });
  shown(document.body);
})();
