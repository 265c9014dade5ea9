// Opens a study in OHIF as a reader would, and says as JSON what the viewer holds and shows.
//
// node look.js PLAN.json: {playwright, chromium, url, study, shots, opens: [{kind, description, image, points}]}
// kind: SEG, LABELMAP (a SEG too), SR or SC; description: of the series to open; image: SOP Instance UID to turn to;
// points: [column, row] of that image whose place on the screen is wanted (the first pixel's centre is 0, 0).
const fs = require("fs");
const os = require("os");
const path = require("path");

const plan = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
const { chromium } = require(plan.playwright);

const FLAGS = [
  "--no-sandbox",
  "--use-angle=swiftshader", "--use-gl=angle", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist",
  "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run",
  "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
];
const PATIENCE = { timeout: 120000, polling: 200 };

async function main() {
  const profile = fs.mkdtempSync(path.join(os.tmpdir(), "viewer-profile-"));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: plan.chromium, headless: true, viewport: { width: 1600, height: 900 }, args: FLAGS,
  });
  const said = { errors: [], refused: [], elsewhere: [], opened: [] };
  try {
    const page = context.pages()[0] || (await context.newPage());
    page.setDefaultTimeout(PATIENCE.timeout);
    page.on("pageerror", (e) => said.errors.push(String(e.stack || e).slice(0, 700)));
    page.on("response", (r) => { if (r.status() >= 400) said.refused.push(`${r.status()} ${r.url()}`); });
    page.on("request", (r) => {
      if (!r.url().startsWith(plan.url) && !/^(data|blob):/.test(r.url())) said.elsewhere.push(r.url());
    });
    await page.goto(`${plan.url}/viewer?StudyInstanceUIDs=${plan.study}`, { waitUntil: "load" });
    await painted(page);
    said.series = await page.evaluate(() => window.services.displaySetService.activeDisplaySets.map(
      (d) => ({ modality: d.Modality, description: d.SeriesDescription, unsupported: Boolean(d.unsupported) })));
    said.first = await shown(page);
    const tour = page.getByText("Skip all");
    if (await tour.count()) await tour.first().click();
    for (const wanted of plan.opens) {
      const screenshot = path.join(plan.shots, `${wanted.kind}.png`);
      try {
        said.opened.push({ kind: wanted.kind, screenshot, ...(await open(page, wanted, said.first[0])) });
      } finally {
        await page.screenshot({ path: screenshot });
      }
    }
  } finally {
    await context.close();
    fs.rmSync(profile, { recursive: true, force: true });
  }
  process.stdout.write(JSON.stringify(said));
}

// Until a viewport shows an image.
async function painted(page) {
  await page.waitForFunction(() => {
    const elements = window.cornerstone && window.services ? window.cornerstone.getEnabledElements() : [];
    return elements.length && elements[0].viewport.getCurrentImageId && elements[0].viewport.getCurrentImageId();
  }, null, PATIENCE);
}

async function shown(page) {
  return page.evaluate(() => {
    const uids = [...window.services.viewportGridService.getState().viewports.values()]
      .flatMap((v) => v.displaySetInstanceUIDs || []);
    return uids.map((u) => window.services.displaySetService.getDisplaySetByUID(u).SeriesDescription);
  });
}

async function doubleClick(page, wanted) {
  await page.locator('[data-cy^="study-browser-thumbnail"]').filter({ hasText: wanted.description }).first().dblclick();
}

// images: what is shown at first.
async function open(page, wanted, images) {
  const before = await page.evaluate(() => window.cornerstoneTools.segmentation.state.getSegmentations().length);
  await doubleClick(page, wanted);
  if (wanted.kind === "SEG" || wanted.kind === "LABELMAP") return openSegmentation(page, wanted, before);
  if (wanted.kind === "SR") return openReport(page, wanted, images);
  return openPicture(page, wanted);
}

// The one that comes to those that there were before.
async function openSegmentation(page, wanted, before) {
  await agreeUntil(page, (n) => window.cornerstoneTools.segmentation.state.getSegmentations().length > n, before);
  await page.waitForFunction(() => {
    const rd = window.cornerstoneTools.segmentation.state.getSegmentations().at(-1).representationData.Labelmap;
    return rd && (rd.imageIds || []).length + (rd.volumeId ? 1 : 0) > 0;
  }, null, PATIENCE);
  // Its colours come with its representation in the viewport, some time after it.
  await page.waitForFunction(() => {
    const { cornerstone: cs, cornerstoneTools: tools } = window;
    const found = tools.segmentation.state.getSegmentations().at(-1);
    return tools.segmentation.state.getSegmentationRepresentations(
      cs.getEnabledElements()[0].viewportId, { segmentationId: found.segmentationId }).length > 0;
  }, null, PATIENCE);
  const segments = await page.evaluate(() => {
    const { cornerstone: cs, cornerstoneTools: tools } = window;
    const found = tools.segmentation.state.getSegmentations().at(-1);
    const labelmap = found.representationData.Labelmap;
    const counts = {};
    const count = (values) => { for (const v of values) if (v) counts[v] = (counts[v] || 0) + 1; };
    if ((labelmap.imageIds || []).length) {
      for (const id of labelmap.imageIds) {
        const image = cs.cache.getImage(id);
        if (image) count(image.voxelManager ? image.voxelManager.getScalarData() : image.getPixelData());
      }
    } else {
      count(cs.cache.getVolume(labelmap.volumeId).voxelManager.getCompleteScalarDataArray());
    }
    const viewportId = cs.getEnabledElements()[0].viewportId;
    return Object.values(found.segments).filter(Boolean).map((s) => ({
      number: s.segmentIndex,
      label: s.label,
      voxels: counts[s.segmentIndex] || 0,
      colour: [...tools.segmentation.config.color.getSegmentIndexColor(
        viewportId, found.segmentationId, s.segmentIndex)].slice(0, 3),
    }));
  });
  return { segments, ...(await turnTo(page, wanted)) };
}

async function openReport(page, wanted, images) {
  const until = Date.now() + PATIENCE.timeout;
  const drawn = () => window.cornerstoneTools.annotation.state.getAllAnnotations().some((a) => a.data.labels)
    && document.querySelector(".svg-layer text") !== null;
  // A viewer that is still busy with its first images may not draw what it loaded: a reader opens both again.
  while (!(await happens(page, drawn, 20000))) {
    if (Date.now() > until) throw new Error("the report's outlines were not drawn");
    await doubleClick(page, { description: images });
    await painted(page);
    await doubleClick(page, wanted);
  }
  const annotations = await page.evaluate(() =>
    window.cornerstoneTools.annotation.state.getAllAnnotations().filter((a) => a.data.labels).map((a) => ({
      labels: a.data.labels.map((l) => `${l.label}: ${l.value}`),
      lines: ((a.data.renderableData || {}).POLYLINE || []).length,
    })));
  return { annotations, ...(await turnTo(page, wanted)) };
}

async function openPicture(page, wanted) {
  await page.waitForFunction((uid) => {
    const { cornerstone: cs } = window;
    return cs.getEnabledElements().some((e) => {
      const id = e.viewport.getCurrentImageId && e.viewport.getCurrentImageId();
      const general = id && cs.metaData.get("sopCommonModule", id);
      return general && general.sopInstanceUID === uid;
    });
  }, wanted.image, PATIENCE);
  await settled(page);
  return { place: await page.evaluate(() => {
    const { viewport } = window.cornerstone.getEnabledElements()[0];
    const image = window.cornerstone.cache.getImage(viewport.getCurrentImageId());
    const box = viewport.element.getBoundingClientRect();
    return { rows: image.rows, columns: image.columns, left: box.left, top: box.top, width: box.width, height: box.height };
  }) };
}

// Whether the condition holds within this time (ms).
async function happens(page, condition, within) {
  const until = Date.now() + within;
  while (!(await page.evaluate(condition))) {
    if (Date.now() > until) return false;
    await page.waitForTimeout(200);
  }
  return true;
}

// Say yes to the viewer's questions until the condition holds.
async function agreeUntil(page, condition, about) {
  const until = Date.now() + PATIENCE.timeout;
  while (!(await page.evaluate(condition, about))) {
    if (Date.now() > until) throw new Error("the segmentation was not loaded");
    const yes = page.getByRole("button", { name: "Yes", exact: true });
    if (await yes.count()) await yes.first().click().catch(() => {});
    await page.waitForTimeout(200);
  }
}

// Turn to an image, and say where its points are on the screen, what lines are drawn and what is written.
async function turnTo(page, { image, points }) {
  await page.waitForFunction((uid) => {
    const { cornerstone: cs } = window;
    const { viewport } = cs.getEnabledElements()[0];
    const of = (id) => (cs.metaData.get("sopCommonModule", id) || {}).sopInstanceUID;
    if (of(viewport.getCurrentImageId()) === uid) return true;
    const id = viewport.getImageIds().find((i) => of(i) === uid);
    if (id) viewport.setViewReference({ referencedImageId: id });
    viewport.render();
    return false;
  }, image, PATIENCE);
  await settled(page);
  return page.evaluate((wanted) => {
    const { cornerstone: cs } = window;
    const { viewport } = cs.getEnabledElements()[0];
    const plane = cs.metaData.get("imagePlaneModule", viewport.getCurrentImageId());
    const box = viewport.element.getBoundingClientRect();
    // What has no place in the patient (ultrasound) lies where the viewer puts it.
    const origin = plane.imagePositionPatient || [0, 0, 0];
    const [along, below] = [plane.rowCosines || [1, 0, 0], plane.columnCosines || [0, 1, 0]];
    const [across, down] = [plane.columnPixelSpacing || 1, plane.rowPixelSpacing || 1];
    const places = wanted.map(([column, row]) => {
      const world = [0, 1, 2].map((k) => origin[k] + column * across * along[k] + row * down * below[k]);
      const [x, y] = viewport.worldToCanvas(world);
      return [x + box.left, y + box.top];
    });
    const layer = viewport.element.querySelector(".svg-layer") || document.querySelector(".svg-layer");
    const drawn = layer ? [...layer.querySelectorAll("polyline, path")] : [];
    const numbers = (e) => (e.getAttribute("points") || e.getAttribute("d") || "").match(/-?\d+(\.\d+)?/g) || [];
    const lines = drawn.map((e) => numbers(e).map(Number)).filter((n) => n.length >= 8).map((n) => {
      const pairs = [];
      for (let i = 0; i + 1 < n.length; i += 2) pairs.push([n[i] + box.left, n[i + 1] + box.top]);
      return pairs;
    });
    const words = layer ? [...layer.querySelectorAll("tspan")].map((e) => e.textContent) : [];
    return { places, lines, words };
  }, points);
}

// Until two pictures of the screen in a row are the same.
async function settled(page) {
  const until = Date.now() + 30000;
  let before = null;
  while (Date.now() < until) {
    const now = await page.screenshot();
    if (before && now.equals(before)) return;
    before = now;
    await page.waitForTimeout(700);
  }
}

main().catch((e) => { console.error(String(e.stack || e)); process.exit(1); });
