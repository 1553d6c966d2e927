"""What a browser is asked about pictures."""

SHADES = """async image => {
    await image.decode();
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const context = canvas.getContext('2d');
    context.drawImage(image, 0, 0);
    const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
    return new Set(pixels.filter((_, i) => i % 4 === 0)).size;
}"""
"""JavaScript: how many shades of red an image has; a blank one has a single one."""
