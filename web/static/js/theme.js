// The theme island: light, dark or as the system says, kept in a cookie that the
// server reads, so that the next page comes in the right colours at once.
(() => {
'use strict';
const root = document.documentElement, button = document.querySelector('[data-theme-switch]');
const next = { auto: 'light', light: 'dark', dark: 'auto' };
const icon = {
  light: 'M10 13.5a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7zM10 2v1.5M10 16.5V18M2 10h1.5M16.5 10H18M4.3 4.3l1.1 1.1M14.6 14.6l1.1 1.1M4.3 15.7l1.1-1.1M14.6 5.4l1.1-1.1',
  dark: 'M16.5 12.2A7 7 0 0 1 7.8 3.5a7 7 0 1 0 8.7 8.7z',
  auto: 'M3 4h14v9.5H3zM7 17h6M10 13.5V17',
};
const changed = () => document.dispatchEvent(new Event('ballast:theme'));
button?.form.addEventListener('submit', e => {
  e.preventDefault();
  const theme = next[root.dataset.theme] || 'light';
  root.dataset.theme = theme;
  document.cookie = `theme=${theme};path=/;max-age=31536000;samesite=lax`;
  button.value = next[theme];
  button.setAttribute('aria-label', `Colours: ${theme}. Switch to ${next[theme]}`);
  button.querySelector('path').setAttribute('d', icon[theme]);
  changed();
});
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', changed);
// Paper is light.
let was;
addEventListener('beforeprint', () => { was = root.dataset.theme; root.dataset.theme = 'light'; changed(); });
addEventListener('afterprint', () => { root.dataset.theme = was; changed(); });
})();
