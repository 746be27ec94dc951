//! A link as a square that a phone's camera reads.

use std::fmt::Write as _;

use fast_qr::{ECL, QRBuilder, QRCode};

/// A QR code.
pub struct Qr(QRCode);

impl Qr {
    /// The code of a text; nothing for one of more than 2,300 bytes, which no code holds.
    pub fn of(text: &str) -> Option<Self> {
        // On a screen nothing is scratched or wet, so a fifth of it may be hidden at most: fewer, larger squares.
        QRBuilder::new(text).ecl(ECL::M).build().ok().map(Self)
    }

    /// For a terminal: two rows of squares a line, light on the terminal's dark. The border of light squares belongs to it.
    pub fn terminal(&self) -> String {
        let rows = (-BORDER..self.side() + BORDER).step_by(2);
        let lines = rows.map(|y| {
            let columns = -BORDER..self.side() + BORDER;
            let line: String =
                columns.map(|x| BLOCKS[usize::from(self.dark(x, y))][usize::from(self.dark(x, y + 1))]).collect();
            line + "\n"
        });
        lines.collect()
    }

    /// As an SVG image, black on white.
    pub fn svg(&self) -> String {
        let whole = self.side() + 2 * BORDER;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {whole} {whole}\" shape-rendering=\"crispEdges\">\
             <rect width=\"{whole}\" height=\"{whole}\" fill=\"#fff\"/><path d=\""
        );
        for (x, y) in
            (0..self.side()).flat_map(|y| (0..self.side()).map(move |x| (x, y))).filter(|&(x, y)| self.dark(x, y))
        {
            // Writing to a string does not fail.
            let _ = write!(svg, "M{} {}h1v1h-1z", x + BORDER, y + BORDER);
        }
        svg + "\"/></svg>"
    }

    fn side(&self) -> i32 {
        self.0.size as i32
    }

    /// Whether a square is dark; those around the code are not.
    fn dark(&self, x: i32, y: i32) -> bool {
        let inside = |at: i32| usize::try_from(at).ok().filter(|at| *at < self.0.size);
        matches!((inside(x), inside(y)), (Some(x), Some(y)) if self.0[y][x].value())
    }
}

/// Light squares around a code: what its definition asks for.
const BORDER: i32 = 4;

/// What two squares, one above the other, look like, by whether each is dark.
const BLOCKS: [[char; 2]; 2] = [['█', '▀'], ['▄', ' ']];

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: &str = "https://192.168.1.10:7780/join#K7MP-Q2XR";

    /// What a phone reads in a picture.
    fn read(side: usize, dark: impl Fn(usize, usize) -> bool) -> String {
        let scale = 4;
        let shade = |x, y| if dark(x / scale, y / scale) { 0 } else { 255 };
        let mut picture = rqrr::PreparedImage::prepare_from_greyscale(side * scale, side * scale, shade);
        let found = picture.detect_grids();
        found.first().expect("a code").decode().expect("a whole code").1
    }

    #[test]
    fn the_terminal_shows_a_code_that_reads_back_as_the_link() {
        let lines: Vec<Vec<char>> =
            Qr::of(LINK).unwrap().terminal().lines().map(|line| line.chars().collect()).collect();
        let side = lines[0].len();
        let dark = |x: usize, y: usize| {
            let look = BLOCKS.iter().flatten().position(|look| *look == lines[y / 2][x]).unwrap();
            [look / 2, look % 2][y % 2] == 1
        };
        assert_eq!(read(side, dark), LINK);
    }

    #[test]
    fn the_image_shows_a_code_that_reads_back_as_the_link() {
        let svg = Qr::of(LINK).unwrap().svg();
        let (_, size) = svg.split_once("viewBox=\"0 0 ").unwrap();
        let side = size.split(' ').next().unwrap().parse().unwrap();
        let dark = |x: usize, y: usize| svg.contains(&format!("M{x} {y}h1v1h-1z"));
        assert_eq!(read(side, dark), LINK);
    }

    #[test]
    fn what_no_code_holds_gives_none() {
        assert!(Qr::of(&"a".repeat(3000)).is_none());
    }
}
