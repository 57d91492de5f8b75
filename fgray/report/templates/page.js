(() => {
  "use strict";
  const FIRST = matchMedia("(max-width: 640px)").matches ? 6 : 12;
  const STEP = 2 * FIRST;
  const form = document.querySelector("[data-filters]");
  if (!form) return;
  const galleries = [...document.querySelectorAll("[data-gallery]")].map((root) => ({
    root,
    cards: [...root.querySelectorAll("[data-card]")],
    more: root.querySelector("[data-more]"),
    none: root.querySelector("[data-none]"),
    limit: FIRST,
  }));
  const count = form.querySelector("[data-count]");
  const total = galleries.reduce((sum, gallery) => sum + gallery.cards.length, 0);

  const fits = (card, wanted, words) =>
    Object.entries(wanted).every(([name, value]) => card.dataset[name] === value) && words.every((word) => card.dataset.search.includes(word));

  const apply = () => {
    const fields = Object.fromEntries(new FormData(form));
    const words = fields.search.toLowerCase().split(/\s+/).filter(Boolean);
    delete fields.search;
    const wanted = Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== ""));
    let found = 0;
    for (const gallery of galleries) {
      const fitting = gallery.cards.filter((card) => fits(card, wanted, words));
      const visible = new Set(fitting.slice(0, gallery.limit));
      for (const card of gallery.cards) card.hidden = !visible.has(card);
      if (gallery.more) {
        gallery.more.hidden = fitting.length <= gallery.limit;
        gallery.more.textContent = `Show ${Math.min(STEP, fitting.length - gallery.limit)} more of ${fitting.length}`;
      }
      if (gallery.none) gallery.none.hidden = fitting.length > 0;
      found += fitting.length;
    }
    count.textContent = found === total ? `${total} cards` : `${found} of ${total} cards`;
  };

  form.addEventListener("input", () => {
    for (const gallery of galleries) gallery.limit = FIRST;
    apply();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const gallery of galleries) {
    gallery.more?.addEventListener("click", () => {
      const next = gallery.cards.filter((card) => !card.hidden).length;
      gallery.limit += STEP;
      apply();
      const shown = gallery.cards.filter((card) => !card.hidden);
      shown[next]?.setAttribute("tabindex", "-1");
      shown[next]?.focus({ preventScroll: true });
    });
  }
  form.hidden = false;
  apply();
})();
