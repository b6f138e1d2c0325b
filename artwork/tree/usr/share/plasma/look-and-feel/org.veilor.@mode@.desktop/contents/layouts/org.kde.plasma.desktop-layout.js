// Plasma's own panel, so that it grows with Plasma; only what is pinned to it and its start button are ours.
loadTemplate("org.kde.plasma.desktop.defaultPanel");

panels().forEach(panel => {
    panel.widgets("org.kde.plasma.kickoff").forEach(menu => {
        menu.currentConfigGroup = ["General"];
        menu.writeConfig("icon", "veilor-os");
    });
    panel.widgets("org.kde.plasma.icontasks").forEach(tasks => {
        tasks.currentConfigGroup = ["General"];
        tasks.writeConfig("launchers", ["applications:brave-browser.desktop", "applications:org.kde.dolphin.desktop",
            "applications:org.kde.konsole.desktop", "applications:systemsettings.desktop"]);
    });
});

desktopsForActivity(currentActivity()).forEach(desktop => {
    desktop.wallpaperPlugin = "org.kde.image";
    desktop.currentConfigGroup = ["Wallpaper", "org.kde.image", "General"];
    desktop.writeConfig("Image", "file:///usr/share/wallpapers/veilor/");
});
