// The demo island: the drawer follows the demo while it is open.
(() => {
'use strict';
const { $ } = window.ballast;
setInterval(() => {
  const d = $('#drawer[open]');
  if (d && !document.hidden && !d.contains(document.activeElement?.closest('input'))) $('[data-demo-refresh]', d)?.dispatchEvent(new Event('demo:refresh'));
}, 1000);
})();
