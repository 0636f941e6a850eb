"""What goes wrong and whom it concerns: the history of rejections, the troubles of the moment, and what people are told of them."""
