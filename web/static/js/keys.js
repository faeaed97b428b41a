// The keyboard island: / finds, ? helps, p pauses, g and a letter goes to a page.
// It is silent while somebody types.
(() => {
'use strict';
const { $, $$, toggle } = window.ballast;
let going = 0;
addEventListener('keydown', e => {
  if (e.ctrlKey || e.metaKey || e.altKey) return;
  if (e.target.closest?.('input, textarea, select')) { if (e.key === 'Escape') e.target.blur(); return; }
  if (e.key === 'Escape') { $('#drawer[open]')?.close(); return; }
  if (Date.now() - going < 1200) {
    going = 0;
    const to = $$('[data-go]').find(a => a.dataset.go === e.key);
    if (to) { e.preventDefault(); to.click(); }
    return;
  }
  switch (e.key) {
    case '/': e.preventDefault(); $('[data-find]')?.focus(); break;
    case '?': $('#help')?.showModal(); break;
    case 'p': toggle(); break;
    case 'g': going = Date.now(); break;
  }
});
// In the list of what was found the arrows move.
const box = $('.find');
box?.addEventListener('keydown', e => {
  if (e.key !== 'ArrowDown' && e.key !== 'ArrowUp') return;
  const all = [$('[data-find]'), ...$$('.found a')], i = all.indexOf(document.activeElement) + (e.key === 'ArrowDown' ? 1 : -1);
  e.preventDefault();
  all[Math.max(0, Math.min(all.length - 1, i))].focus();
});
})();
