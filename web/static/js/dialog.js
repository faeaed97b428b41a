// The dialog island: htmx fills a dialog, this opens it; a click beside it closes it.
(() => {
'use strict';
const { $, $$ } = window.ballast;
document.addEventListener('htmx:after:swap', () => {
  for (const d of $$('#dialog, #drawer')) if (d.firstElementChild && !d.open) d.id === 'drawer' ? d.show() : d.showModal();
});
for (const d of $$('dialog')) {
  d.addEventListener('close', () => { if (d.id !== 'help') d.replaceChildren(); });
  d.addEventListener('click', e => { if (e.target === d && d.id !== 'drawer') d.close(); });
}
document.addEventListener('click', e => {
  const b = e.target.closest('[data-close]');
  if (b) { e.preventDefault(); b.closest('dialog')?.close(); }
  const menu = $('.navmenu[open]');
  if (menu && !e.target.closest('.side, .navmenu')) menu.open = false;
  const copy = e.target.closest('[data-copy]');
  if (copy) navigator.clipboard?.writeText($(copy.dataset.copy)?.textContent ?? '').then(() => { copy.textContent = 'Copied'; });
});
})();
