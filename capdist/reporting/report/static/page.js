"use strict";
// Starts the report.

const data = JSON.parse(document.getElementById("data").textContent);
const pictures = document.getElementById("pictures").textContent.split("\n");
const gallery = data.gallery && new GalleryPage(data, pictures);
const curves = new Curves(data);
theme.button.addEventListener("click", () => curves.repaint());
