# cmake -DIN=FILE -DOUT=FILE.c -DNAME=name -P embed.cmake: a file as a C array.
file(READ ${IN} hex HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
file(WRITE ${OUT} "extern const unsigned char ${NAME}[];\nextern const unsigned ${NAME}_bytes;\n"
  "const unsigned char ${NAME}[] = {${bytes}0};\nconst unsigned ${NAME}_bytes = sizeof ${NAME} - 1;\n")
