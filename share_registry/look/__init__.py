"""How results look: colours, the stylesheet, drawings as SVG, and the page of a report."""
