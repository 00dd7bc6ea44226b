"use strict";
// Starts the page: the theme first, so that curves are drawn in its colours.

const theme = {
  root: document.documentElement,
  button: document.getElementById("theme"),
  stored: () => { try { return localStorage.getItem("capdist-theme"); } catch { return null; } },
  set(name) {
    this.root.dataset.theme = name;
    this.button.textContent = name === "dark" ? "Light" : "Dark";
    this.button.setAttribute("aria-label", `Switch to ${name === "dark" ? "light" : "dark"} colours`);
  },
  toggle() {
    const name = this.root.dataset.theme === "dark" ? "light" : "dark";
    this.set(name);
    try { localStorage.setItem("capdist-theme", name); } catch { /* not remembered */ }
  },
};
theme.set(theme.stored() ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));

const data = JSON.parse(document.getElementById("data").textContent);
const pictures = document.getElementById("pictures").textContent.split("\n");
const gallery = data.gallery && new GalleryPage(data, pictures);
const curves = new Curves(data);
theme.button.addEventListener("click", () => { theme.toggle(); curves.repaint(); });
