"""What finds objects in pictures, behind one contract."""
