// The map island: pan, zoom, and one cluster brought forward. It changes
// attributes and classes only. Figures come by the live stream; when the
// structure has changed it asks for the page's content anew.
(() => {
'use strict';
if (!window.ballast) return;
const { $, $$ } = ballast;
const content = $('#topo-content');
if (!content) return;

// Before the first server is seen there is no map; the page asks for itself
// when there is one.
let asking = false;
document.addEventListener('ballast:tick', e => {
  const hash = e.detail.d?.topology, now = $('#topo', content)?.dataset.hash ?? content.dataset.empty;
  if (!hash || hash === now || asking) return;
  asking = true; // until the answer is there
  setTimeout(() => { asking = false; }, 3000);
  if (!$('#topo', content)) return location.reload();
  htmx.trigger(content, 'topo:changed');
});

const box = $('[data-topo]');
if (!box) return;
const svg = () => $('svg.topo', box);
let home = svg().dataset.home.split(' ').map(Number), view = [...home], moved = false;

const put = () => svg().setAttribute('viewBox', view.map(n => +n.toFixed(1)).join(' '));
function zoomBy(k, cx = .5, cy = .5) {
  const w = Math.max(home[2] * .12, Math.min(home[2] * 1.5, view[2] * k)), h = w * home[3] / home[2];
  view = [view[0] + (view[2] - w) * cx, view[1] + (view[3] - h) * cy, w, h];
  moved = true;
  put();
}
function fit() { view = [...home]; moved = false; put(); }

for (const b of $$('[data-zoom]')) b.addEventListener('click', () => ({ in: () => zoomBy(.8), out: () => zoomBy(1.25), fit })[b.dataset.zoom]());
// Without a key held the wheel scrolls the page.
box.addEventListener('wheel', e => {
  if (!e.ctrlKey && !e.metaKey) return;
  e.preventDefault();
  const r = svg().getBoundingClientRect();
  zoomBy(Math.exp(e.deltaY / 400), (e.clientX - r.left) / r.width, (e.clientY - r.top) / r.height);
}, { passive: false });

let drag = null;
box.addEventListener('pointerdown', e => { if (e.button === 0 && e.pointerType !== 'touch') drag = { x: e.clientX, y: e.clientY, view: [...view], on: false }; });
box.addEventListener('pointermove', e => {
  if (!drag) return;
  if (!drag.on && Math.hypot(e.clientX - drag.x, e.clientY - drag.y) < 4) return;
  const m = svg().getScreenCTM();
  drag.on = moved = true;
  svg().classList.add('drag');
  view = [drag.view[0] - (e.clientX - drag.x) / m.a, drag.view[1] - (e.clientY - drag.y) / m.d, view[2], view[3]];
  put();
});
addEventListener('pointerup', () => {
  // The end of a drag is not a click on what lies under the pointer.
  if (drag?.on) box.addEventListener('click', e => e.preventDefault(), { once: true, capture: true });
  drag = null;
  svg().classList.remove('drag');
});
box.addEventListener('dragstart', e => e.preventDefault());

// hot brings forward a cluster, its gateways and the clusters at their ends.
function hot(id) {
  const s = svg();
  if ((s.dataset.hot || '') === (id || '')) return;
  s.dataset.hot = id || '';
  for (const x of $$('.hot', s)) x.classList.remove('hot');
  const links = id ? $$('.gw, .lb', s).filter(g => g.dataset.a === id || g.dataset.b === id) : [];
  s.classList.toggle('dim', links.length > 0);
  if (!links.length) return;
  const near = new Set([id]);
  for (const g of links) { g.classList.add('hot'); near.add(g.dataset.a); near.add(g.dataset.b); }
  for (const x of $$('.cl, .nd', s)) x.classList.toggle('hot', near.has(x.dataset.c));
}
const clusterOf = e => e.target.closest?.('[data-c]')?.dataset.c;
box.addEventListener('mouseover', e => hot(clusterOf(e)));
box.addEventListener('mouseleave', () => hot());
box.addEventListener('focusin', e => hot(clusterOf(e)));
box.addEventListener('focusout', () => hot());

document.addEventListener('htmx:after:swap', () => {
  const s = svg();
  if (!s) return;
  asking = false;
  ready();
  const next = s.dataset.home.split(' ').map(Number);
  if (next.join() !== home.join()) { home = next; if (!moved) view = [...home]; }
  put();
});
// What scripts add to the markup is added again after it came anew.
function ready() {
  svg().classList.add('pan');
  $('[data-topo-tools]').hidden = false;
}
ready();
})();
