"use strict";
// Light or dark: as the system has it, until one is chosen.

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
theme.button.addEventListener("click", () => theme.toggle());
