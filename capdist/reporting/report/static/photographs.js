"use strict";
// Starts the page of photographs.

const photographs = JSON.parse(document.getElementById("data").textContent);
const pictures = document.getElementById("pictures").textContent.split("\n");
const shownImages = photographs.map(({ name, found }) => asImage(name, found));
let cards = [];
makeSwitches(document.getElementById("switches"), shownImages, () => cards.forEach((card) => card.view.refresh()));
cards = photographs.map(({ found }, index) => new PhotographCard(shownImages[index], found, pictures[index]));
document.getElementById("photographs").append(...cards.map((card) => card.root));
